"""Adapters that PEFT wrote, as models: the same logits as PEFT's own."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config

from thumbs.config.model import ModelConfig
from thumbs.errors import ModelError
from thumbs.models.catalog import resolve
from thumbs.models.peft_settings import HARMLESS, USED
from thumbs.models.peft_settings import REFUSED as PEFT_REFUSED
from thumbs.models.trunk import open_trunk
from tiny_models import FAMILIES, LLAMA, load_reference, save_random

TOKENS = torch.arange(3, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path / "cache"))


def adapted(folder: Path, base: str = "llama", resize: int = 0, **settings: Any) -> tuple[Path, torch.Tensor]:
    """A folder that PEFT saved, and the logits of the model that was saved."""
    save_random(BASES[base], folder / "base")
    model = load_reference(folder / "base")
    if resize:
        model.resize_token_embeddings(resize)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 12, "target_modules": ["q_proj"], **settings}
    )
    torch.manual_seed(1)
    model = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return folder / "adapter", model(TOKENS[None]).logits[0]


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    trunk = open_trunk(ModelConfig(name=str(folder), dtype="float32"), seed=0)
    return trunk.forward_packed(TOKENS, [len(TOKENS)]) @ trunk.head_weight().T


BASES = {
    "llama": LLAMA,
    "untied": FAMILIES["llama, own output embedding"],
    "qwen2": FAMILIES["qwen2, biases"],
    "gpt2": GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}
READ: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"1.mlp.up_proj": 3},
    },
    "one layer": {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    "one layer by a pattern": {"layers_to_transform": 1, "layers_pattern": "layers"},
    "an expression": {"target_modules": r".*\.mlp\..*_proj"},
    "all linear": {"target_modules": "all-linear", "exclude_modules": ["down_proj"]},
    "gaussian": {"init_lora_weights": "gaussian"},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "dora, rslora": {"use_dora": True, "use_rslora": True},
    "biases": {"base": "qwen2", "bias": "all"},
    "biases of adapted layers": {"base": "qwen2", "bias": "lora_only"},
    "whole head": {"base": "untied", "modules_to_save": ["lm_head"]},
    "whole head and embedding": {"base": "untied", "modules_to_save": ["lm_head", "embed_tokens"]},
    "head": {"base": "untied", "target_modules": ["q_proj", "lm_head"]},
    "embedding": {"base": "untied", "target_modules": ["q_proj", "embed_tokens"]},
    "tied, whole head": {"modules_to_save": ["lm_head"]},
    "tied, whole embedding": {"modules_to_save": ["embed_tokens"]},
    "tied, both whole": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "tied, head": {"target_modules": ["q_proj", "lm_head"]},
    "tied, embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "tokens": {"base": "untied", "trainable_token_indices": [5, 6, 7]},
    "tied, tokens": {"trainable_token_indices": {"embed_tokens": [5, 6, 7]}},
    "a larger vocabulary": {"base": "untied", "resize": 101, "modules_to_save": ["embed_tokens", "lm_head"]},
    "a larger vocabulary, adapted": {
        "base": "untied",
        "resize": 101,
        "target_modules": ["q_proj", "embed_tokens", "lm_head"],
    },
    "gpt2": {"base": "gpt2", "target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
}


@pytest.mark.parametrize("case", READ)
def test_the_logits_are_those_of_the_model_that_peft_saved(tmp_path: Path, case: str):
    folder, expected = adapted(tmp_path, **READ[case])
    plain = load_reference(tmp_path / "base")(TOKENS[None]).logits[0]
    assert expected.shape != plain.shape or (plain - expected).abs().max() > 0.01
    torch.testing.assert_close(logits(folder), expected, atol=3e-4, rtol=1e-4)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base's weights"),
    "pissa, fast": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights is 'pissa_niter_4'"),
    "olora": ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
    "lora_bias": ({"lora_bias": True}, "lora_bias is set: its adapters have biases"),
    "alora": ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens is set"),
    "parameters": ({"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]}, "target_parameters is set"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_folded_is_refused_with_its_reason(tmp_path: Path, case: str):
    settings, reason = REFUSED[case]
    folder, _ = adapted(tmp_path, **settings)
    with pytest.raises(ModelError, match=rf"cannot be read: {reason}.*merge it with PEFT"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapted(tmp_path_factory.mktemp("plain"), target_modules=["q_proj", "up_proj"])[0]


def changed(folder: Path, out: Path, **settings: Any) -> Path:
    """A copy of an adapter with other settings."""
    shutil.copytree(folder, out)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (out / "adapter_config.json").write_text(json.dumps({**config, **settings}), encoding="utf-8")
    return out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(({key: True}, f"{key} is set") for key in PEFT_REFUSED),
        *(
            ({"init_lora_weights": kind}, f"init_lora_weights is '{kind}'")
            for kind in ("corda", "loftq", "lora_ga", "new")
        ),
        *(
            ({"peft_type": kind}, f"an adapter of the kind {kind}")
            for kind in ("XLORA", "IA3", "PREFIX_TUNING", "OFT", None)
        ),
        ({"brand_new": 1, "other": None, "off": False}, "it sets brand_new, which is not known here"),
        ({"r": 0}, "r is 0; a positive number"),
        ({"bias": "some"}, "bias is 'some'"),
        ({"base_model_name_or_path": None}, "does not say what its base is"),
        ({"r": 8}, "rank 8 and its weight"),
        (
            {"target_modules": ["q_proj", "up_proj", "down_proj"]},
            r"has no adapter of 'model\.layers\.0\.mlp\.down_proj'",
        ),
    ],
)
def test_each_setting_is_read_or_named(plain: Path, tmp_path: Path, settings: dict[str, Any], message: str):
    with pytest.raises(ModelError, match=message):
        open_trunk(ModelConfig(name=str(changed(plain, tmp_path / "changed", **settings))), seed=0)


def test_every_setting_of_peft_is_known():
    names = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert names - {"auto_mapping", "peft_version"} <= USED | HARMLESS | PEFT_REFUSED.keys()


A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(A), "q_proj has no lora_A; the adapter is not complete"),
        (lambda s: s.update({A: s[A][:1]}), r"lora_A \(1, 32\)"),
        (lambda s: s.update({A: s[A].to(torch.int8)}), "is int8"),
        (lambda s: s[A].fill_(float("nan")), "holds NaN or infinity"),
        (lambda s: s.update({"base_model.model.stray": s[A].clone()}), "stray is not a tensor of a LoRA adapter"),
        (
            lambda s: s.update({"base_model.model.score.weight": torch.ones(1, 32)}),
            "changes score, which .* does not have",
        ),
        (
            lambda s: s.update({"base_model.model.model.norm.weight": torch.ones(1)}),
            r"has shape \(1,\), in .* it is \(32,\)",
        ),
        (
            lambda s: s.update({"base_model.model.model.norm.bias": torch.ones(32)}),
            "a whole weight that .* does not have",
        ),
        (
            lambda s: s.update({A.replace("lora_A", "lora_C"): s[A].clone()}),
            "not a tensor of a LoRA adapter|does not have",
        ),
    ],
)
def test_each_tensor_is_read_or_named(plain: Path, tmp_path: Path, change: Callable[[dict], object], message: str):
    folder = changed(plain, tmp_path / "changed")
    state = load_file(folder / "adapter_model.safetensors")
    change(state)
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        open_trunk(ModelConfig(name=str(folder)), seed=0)


def test_another_base_and_pickled_weights_are_refused(plain: Path, tmp_path: Path):
    shallow = save_random(type(LLAMA)(**{**LLAMA.to_dict(), "num_hidden_layers": 1}), tmp_path / "shallow")
    folder = changed(plain, tmp_path / "changed", base_model_name_or_path=str(shallow))
    with pytest.raises(ModelError, match=r"layers\.1.*, which .*shallow does not have; adapter_config.json names that"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapters are not read"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)


def test_what_is_cached_follows_the_content_of_adapter_and_base(tmp_path: Path):
    """Whatever keeps its size and its time stamp too is seen: nothing is looked up by these."""
    folder, _ = adapted(tmp_path)
    before = resolve(str(folder))
    assert resolve(str(folder)) == before
    files = {
        "chat_template.jinja of the adapter": (folder / "chat_template.jinja", lambda text: text + b"{# new #}"),
        "config.json of the base": (
            tmp_path / "base" / "config.json",
            lambda text: text.replace(b'"dtype"', b'"dtypo"'),
        ),
        "the adapter's alpha": (folder / "adapter_config.json", lambda text: text.replace(b"12,", b"13,")),
        "the adapter": (folder / "adapter_model.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1])),
        "the base": (tmp_path / "base" / "model.safetensors", lambda text: text[:-1] + bytes([text[-1] ^ 1])),
    }
    seen = {before}
    for name, (file, change) in files.items():
        old, times = (file.read_bytes(), file.stat()) if file.exists() else (b"", None)
        file.write_bytes(change(old))
        if times is not None:
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        if name == "config.json of the base":  # our decoder does not know that key; only the content matters here
            file.write_bytes(file.read_bytes().replace(b'"dtypo"', b'"torch_dtype"'))
        found = resolve(str(folder))
        assert found not in seen, name
        seen.add(found)


def test_a_folder_with_an_adapter_and_a_whole_model_is_refused(plain: Path, tmp_path: Path):
    folder = changed(plain, tmp_path / "changed")
    shutil.copy(folder / "adapter_model.safetensors", folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"holds an adapter .* and a whole model"):
        resolve(str(folder))


def test_a_config_next_to_an_adapter_does_not_make_it_a_model(tmp_path: Path):
    folder, expected = adapted(tmp_path)
    shutil.copy(tmp_path / "base" / "config.json", folder)
    torch.testing.assert_close(logits(folder), expected, atol=3e-4, rtol=1e-4)
