"""Many architectures: trained, sampled, saved, exported and read again with equal numbers, or refused at once."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, T5Config, T5ForConditionalGeneration

from thumbs.config.losses import TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.engine import open_engine
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import ModelError
from thumbs.models.hf import load_hf
from thumbs.models.trunk import open_trunk
from thumbs.pipeline.exports import whole_model, write_model
from thumbs.records import Example
from thumbs.rollout.sampler import DecodingParams
from tiny_architectures import OURS, REFUSED, THROUGH_TRANSFORMERS, VOCABULARY, Architecture
from tiny_models import SHAPE

BOUND = 1e-4
"""Nats between any two of them, in float32; measured are 2e-5 at most."""


def weighted(tokens: list[int]) -> Example:
    datum = Example.next_token(tokens)
    return Example(datum.inputs, datum.targets, {"weights": np.ones(len(datum.targets), np.float32)})


def trained_difference(folder: Path, lora: AdapterConfig | None) -> float:
    """Trains two steps, of which the second finds a lower loss; then the largest difference between the logprobs of the
    trainer, the sampler, the model that is saved and read again, and transformers on what is exported, of replies in
    the company of others.
    """
    engine, generator = open_engine(), np.random.default_rng(0)
    spec = ModelSpec("m", ModelConfig(name=str(folder), lora=lora, dtype="float32"))
    handle = engine.create(spec)
    data = [weighted(generator.integers(3, VOCABULARY, n).tolist()) for n in (9, 5, 12)]
    losses = []
    for _ in range(2):
        losses.append(engine.forward_backward(handle, data, [TokenLoss(formula="cross_entropy")]).loss)
        engine.optim_step(handle, AdamStep(1e-3, 1e-3))  # raises where a gradient is not finite
    assert losses[1] < losses[0]
    prompts = [generator.integers(3, VOCABULARY, n).tolist() for n in (3, 11, 7)]
    samples = engine.snapshot(handle).sample(prompts, DecodingParams(12, (1,), 1.0), [1, 2, 3])
    replies = [Example.next_token(p + s.tokens.tolist()) for p, s in zip(prompts, samples, strict=True)]
    trained = [output.logprobs for output in engine.forward(handle, replies)]
    engine.save(handle, folder / "saved")
    again = engine.create(replace(spec, start=folder / "saved"))
    worst = max(
        float(np.abs(a.logprobs - b).max()) for a, b in zip(engine.forward(again, replies), trained, strict=True)
    )
    tensors, config = whole_model(folder / "saved", PipelineConfig(run="none", model=spec.model))
    (folder / "exported").mkdir()
    write_model(folder / "exported", tensors, config, "float32")
    exported = AutoModelForCausalLM.from_pretrained(folder / "exported", dtype=torch.float32).eval()
    for prompt, sample, ours in zip(prompts, samples, trained, strict=True):
        tokens = torch.tensor([prompt + sample.tokens.tolist()])
        with torch.no_grad():
            logits = exported(input_ids=tokens, use_cache=False).logits.float()
        theirs = logits.log_softmax(-1)[0, :-1].gather(1, tokens[0, 1:, None])[:, 0].numpy()
        worst = max(worst, np.abs(ours - theirs).max(), np.abs(ours[len(prompt) - 1 :] - sample.logprobs).max())
    return float(worst)


@pytest.mark.parametrize("row", [*OURS, *THROUGH_TRANSFORMERS], ids=lambda row: row.name)
def test_every_weight_and_adapters_train_sample_export_and_reload(row: Architecture, tmp_path: Path):
    for way, lora in (("whole", None), ("adapters", AdapterConfig(rank=4))):
        row.save(tmp_path / way)
        assert trained_difference(tmp_path / way, lora) < BOUND, way


def test_the_table_is_long_enough():
    trained = {row.config for row in (*OURS, *THROUGH_TRANSFORMERS)}
    assert len(trained) >= 50
    assert {
        "LlamaConfig",
        "Gemma3TextConfig",
        "Phi3Config",
        "Olmo2Config",
        "Qwen3MoeConfig",
        "MixtralConfig",
    } <= trained


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_what_would_be_wrong_is_refused_at_load(row: Architecture, tmp_path: Path):
    row.save(tmp_path)
    with pytest.raises(ModelError, match=row.refused):
        open_trunk(ModelConfig(name=str(tmp_path), lora=None), seed=0)


def test_encoder_decoders_and_other_tasks_are_refused(tmp_path: Path):
    shape = {"vocab_size": 97, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ModelError, match=r"is an encoder-decoder|not? (a )?causal language model"):
        load_hf(tmp_path / "t5", torch.float32)
    OURS[0].save(tmp_path / "llama")
    config = tmp_path / "llama" / "config.json"
    raw = json.loads(config.read_text())
    config.write_text(json.dumps(raw | {"architectures": ["LlamaForSequenceClassification"]}))
    with pytest.raises(ModelError, match="LlamaForSequenceClassification is not a language model that writes"):
        load_hf(tmp_path / "llama", torch.float32)
    config.write_text(json.dumps(raw | {"is_encoder_decoder": True}))
    with pytest.raises(ModelError, match="encoder-decoder"):
        load_hf(tmp_path / "llama", torch.float32)


@pytest.fixture
def biased(tmp_path: Path) -> Path:
    THROUGH_TRANSFORMERS[0].save(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(stray=torch.ones(1)), "'stray' would be left out"),
        (lambda s: s.pop("model.norm.weight"), r"'model\.norm\.weight' is missing"),
        (lambda s: s.update({"model.norm.weight": torch.ones(1)}), r"model\.norm\.weight has shape \(1,\)"),
        (lambda s: s["model.norm.weight"].fill_(float("nan")), r"model\.norm\.weight holds NaN"),
        (lambda s: s.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}), r"norm\.weight is int8"),
    ],
)
def test_every_tensor_is_used_or_named(biased: Path, change, message: str):
    state = load_file(biased / "model.safetensors")
    change(state)
    save_file(state, biased / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        load_hf(biased, torch.float32)


def test_gpt2_as_the_hub_has_it(tmp_path: Path):
    """Without the prefix of the whole model, and with constants that old versions saved."""
    row = next(row for row in THROUGH_TRANSFORMERS if row.name == "GPT-2")
    expected = row.save(tmp_path).state_dict()
    state = load_file(tmp_path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    constants = {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(bare | constants, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = load_hf(tmp_path, torch.float32).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@torch.no_grad()
def test_quantised_weights_are_read_with_their_scales(biased: Path, tmp_path: Path):
    state = load_file(biased / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    scale = state[name].abs().amax(1, keepdim=True) / 127
    whole = (state[name] / scale).round()
    save_file(state | {name: whole.to(torch.int8), f"{name}_scale": scale}, biased / "model.safetensors")
    config = json.loads((biased / "config.json").read_text())
    settings = {"quant_method": "compressed-tensors", "format": "int-quantized"}
    (biased / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    found = load_hf(biased, torch.float32).model.state_dict()
    torch.testing.assert_close(found[name], whole * scale, rtol=1e-6, atol=0)
    (biased / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ModelError, match="'gptq'"):
        load_hf(biased, torch.float32)


def test_a_key_that_nothing_reads_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    OURS[0].save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"brand_new": 1, "other": None}))
    with caplog.at_level(logging.WARNING):
        open_trunk(ModelConfig(name=str(tmp_path), lora=None), seed=0)
    assert "transformers does not know brand_new of config.json and ignores it" in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_scaled_rotary_angles_do_not_depend_on_company(tmp_path: Path, kind: str):
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "original_max_position_embeddings": 32}
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0, **(factors if kind == "longrope" else {})}
    length = 32 if kind == "longrope" else 128
    AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE, rope_parameters=rope)).save_pretrained(tmp_path)
    model = load_hf(tmp_path, torch.float32)
    assert model.context == length
    short, long = [5] * 7, [6] * length
    alone = model.forward_packed(torch.tensor(short), [7])
    together = model.forward_packed(torch.tensor(short + long), [7, length])
    torch.testing.assert_close(together[:7], alone, atol=1e-5, rtol=0)
    with pytest.raises(ModelError, match=f"a sequence of {length + 1} tokens; beyond {length} the rotary scaling"):
        model.forward_packed(torch.tensor([*short, 6, *long]), [7, length + 1])
