"""Every key of a config.json is used, has the value that our decoder computes, is known as harmless, or is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from thumbs.errors import ModelError
from thumbs.models.decoder_config import FIXED, HARMLESS, USED, read_config, why_not_covered, write_config
from thumbs.models.families import FAMILIES
from thumbs.models.rope import frequencies
from tiny_models import SHAPE

CONFIGS = {
    "LlamaForCausalLM": LlamaConfig,
    "MistralForCausalLM": MistralConfig,
    "Qwen2ForCausalLM": Qwen2Config,
    "Qwen3ForCausalLM": Qwen3Config,
    "Phi3ForCausalLM": Phi3Config,
    "Olmo2ForCausalLM": Olmo2Config,
    "SmolLM3ForCausalLM": SmolLM3Config,
    "GraniteForCausalLM": GraniteConfig,
}
ORIGINAL = {"original_max_position_embeddings": 32}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "linear, older spelling": {"type": "linear", "factor": 4.0},
    "llama 3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    "llama 3, other bounds": {
        "rope_type": "llama3",
        "factor": 3.0,
        "low_freq_factor": 0.5,
        "high_freq_factor": 9.0,
        **ORIGINAL,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, **ORIGINAL},
    "yarn, context from the model": {"rope_type": "yarn", "factor": 4.0},
    "yarn, whole": {
        "rope_type": "yarn",
        "factor": 4.0,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "truncate": False,
        **ORIGINAL,
    },
    "yarn, DeepSeek's scale": {"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7, **ORIGINAL},
    "yarn, given scale": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.9, **ORIGINAL},
}


def raw_of(architecture: str, **more: Any) -> dict[str, Any]:
    shape = dict(SHAPE, sliding_window=None) if architecture == "MistralForCausalLM" else SHAPE
    return CONFIGS[architecture](**shape).to_dict() | {"architectures": [architecture]} | more


@pytest.mark.parametrize("case", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500.0])
def test_rotary_angles_are_those_of_transformers(case: str, theta: float):
    config = LlamaConfig(**SHAPE | {"hidden_size": 256}, rope_scaling=dict(SCALINGS[case]), rope_theta=theta)
    raw = {k: v for k, v in config.to_dict().items() if k != "rope_parameters"}
    raw |= {"architectures": ["LlamaForCausalLM"], "rope_theta": theta, "rope_scaling": SCALINGS[case]}
    assert why_not_covered(raw) is None
    ours = read_config(raw)
    speeds, factor = frequencies(ours.rope, ours.head_dim, torch.device("cpu"))
    theirs = LlamaRotaryEmbedding(config)
    torch.testing.assert_close(speeds, theirs.inv_freq, rtol=1e-6, atol=0)
    assert factor == pytest.approx(theirs.attention_scaling)
    assert read_config(write_config(ours)) == ours


def test_a_written_scaling_is_read_by_transformers(tmp_path):
    raw = raw_of("LlamaForCausalLM", rope_parameters={**SCALINGS["llama 3"], "rope_theta": 500.0})
    written = LlamaConfig(**write_config(read_config(raw)))
    assert written.rope_parameters == {**SCALINGS["llama 3"], "rope_theta": 500.0}


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_key_that_transformers_writes_is_known(architecture: str):
    raw = raw_of(architecture)
    assert why_not_covered(raw) is None
    assert raw.keys() <= USED | FIXED.keys() | HARMLESS | FAMILIES[architecture].keys


@pytest.mark.parametrize("architecture", CONFIGS)
def test_a_missing_key_means_what_it_means_in_transformers(architecture: str):
    theirs = CONFIGS[architecture]()
    for key, value in FAMILIES[architecture].defaults.items():
        found = theirs.rope_parameters["rope_theta"] if key == "rope_theta" else getattr(theirs, key)
        # Classes with use_sliding_window hide a window that is not in use.
        assert found == value or (key == "sliding_window" and found is None), key
    raw = raw_of(architecture)
    for key in ("num_key_value_heads", "head_dim", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"):
        short = {k: v for k, v in raw.items() if k != key} | {"num_attention_heads": 64, "hidden_size": 64 * 32}
        full = CONFIGS[architecture](**{k: v for k, v in short.items() if k not in ("architectures", "model_type")})
        ours, head_dim = read_config(short), getattr(full, "head_dim", None) or 32
        assert (ours.kv_heads, ours.head_dim, ours.context) == (
            full.num_key_value_heads,
            head_dim,
            full.max_position_embeddings,
        )
        assert (ours.rms_eps, ours.tied) == (full.rms_norm_eps, full.tie_word_embeddings)


@pytest.mark.parametrize("architecture", CONFIGS)
@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"brand_new": 1}, "config.json sets brand_new, which our decoder does not know"),
        ({"logit_scale": 0.5, "router_multiplier": 2.0}, "sets logit_scale, router_multiplier"),
        ({"model_type": "gemma"}, "model_type 'gemma' does not belong to"),
        ({"partial_rotary_factor": 0.5}, "partial"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "brand_new": 1}}, "rotary settings brand_new"),
        ({"rope_parameters": {"rope_type": "linear", "factor": "4"}}, "factor that are not numbers"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 4.0}}, "without high_freq_factor, low_freq_factor"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rotary scaling 'longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling and rope_parameters that differ"),
        ({"rope_scaling": "linear", "rope_parameters": None}, "not an object"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Model"}}, "auto_map"),
        ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward to 2"),
        ({"add_cross_attention": True}, "add_cross_attention to True"),
    ],
)
def test_what_is_not_known_is_named(architecture: str, more: dict[str, Any], reason: str):
    assert reason in str(why_not_covered(raw_of(architecture, **more)))


@pytest.mark.parametrize("architecture", CONFIGS)
def test_null_is_absent(architecture: str):
    assert why_not_covered(raw_of(architecture, brand_new=None, rope_scaling=None, mlp_bias=None)) is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"vocab_size": "97"}, "vocab_size is '97'"),
        ({"num_key_value_heads": 3}, "4 heads of 8 numbers over 3 key heads"),
    ],
)
def test_sizes_that_cannot_be_are_named(more: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        read_config(raw_of("LlamaForCausalLM", **more))


def test_windows_are_those_of_layers_that_config_json_names():
    window = {"use_sliding_window": True, "sliding_window": 8}
    kinds = ["sliding_attention", "full_attention"]
    assert read_config(raw_of("Qwen3ForCausalLM", **window, layer_types=kinds)).windows == (8, None)
    assert read_config(raw_of("Qwen2ForCausalLM", **window, layer_types=None, max_window_layers=1)).windows == (None, 8)
    assert read_config(raw_of("Qwen2ForCausalLM", layer_types=kinds)).windows == ()
    assert read_config(raw_of("MistralForCausalLM", sliding_window=8)).windows == (8, 8)
    missing = {key: value for key, value in raw_of("MistralForCausalLM").items() if key != "sliding_window"}
    assert read_config(missing).windows == (4096, 4096)
    other = raw_of("Qwen3ForCausalLM", layer_types=["full_attention", "chunked_attention"])
    assert why_not_covered(other) == "layers of the kind chunked_attention"
    assert "sliding_window" in str(why_not_covered(raw_of("LlamaForCausalLM", sliding_window=8)))


def test_transformers_llama_has_no_other_mathematics():
    """When transformers gives LlamaConfig a new field, this test asks whether our decoder computes it."""
    assert set(LlamaConfig().to_dict()) <= USED | FIXED.keys() | HARMLESS
    assert LlamaForCausalLM.config_class is LlamaConfig
