"""Adapters on models of transformers, against PEFT itself, and several of them on one model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import Gemma3TextConfig, GPT2Config, PhiConfig

from thumbs.config.losses import TokenLoss
from thumbs.config.model import ATTENTION, FEED_FORWARD, AdapterConfig, ModelConfig
from thumbs.engine import open_engine
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import ConfigError, MissingExtra, ModelError
from thumbs.models.hf import HfCache, HfCausalLM, load_hf
from thumbs.models.hf_lora import HfLora, Placed
from thumbs.records import Example
from tiny_models import SHAPE, VOCABULARY, load_reference, random_sequences, save_random

PHI: dict[str, Any] = SHAPE | {"num_key_value_heads": 4}
GPT2 = GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
FAMILIES = {
    "gpt2": GPT2,
    "gemma3": Gemma3TextConfig(
        **SHAPE, head_dim=16, sliding_window=4, layer_types=["sliding_attention", "full_attention"]
    ),
    "phi": PhiConfig(**PHI),
}
SEQUENCES = random_sequences(3, [9, 4, 12, 1])
LORA = AdapterConfig(rank=3, alpha=5.0)


@pytest.fixture(params=FAMILIES)
def folder(request, tmp_path: Path) -> Path:
    return save_random(FAMILIES[request.param], tmp_path / "base")


def opened(folder: Path) -> HfCausalLM:
    return load_hf(folder, torch.float32).requires_grad_(False)


def filled(model: HfCausalLM, seed: int, lora: AdapterConfig = LORA) -> HfLora:
    """An adapter with nothing at zero."""
    adapter, generator = model.new_adapter(lora, seed), torch.Generator().manual_seed(seed)
    for weight in adapter.parameters():
        weight.data = 0.2 * torch.randn(weight.shape, generator=generator)
    return adapter


@torch.no_grad()
def logits(model: HfCausalLM, sequence: list[int], adapter: HfLora | Placed | None = None) -> torch.Tensor:
    return model.logits(model.forward_packed(torch.tensor(sequence), [len(sequence)], adapter))


def written(adapter: HfLora, folder: Path) -> Path:
    """The adapter as an engine saves it."""
    from thumbs.models.tensor_files import write_tensors
    from thumbs.tracking.files import write_json

    folder.mkdir()
    write_tensors(folder / "adapter_model.safetensors", adapter.peft_state())
    write_json(folder / "adapter_config.json", adapter.peft_config(None))
    return folder


@torch.no_grad()
@pytest.mark.parametrize(
    "lora",
    [LORA, AdapterConfig(rank=2, targets=ATTENTION), AdapterConfig(rank=2, layers=1)],
    ids=["all", "attention", "last"],
)
def test_peft_opens_what_is_saved_and_gives_the_same_logits(folder: Path, tmp_path: Path, lora: AdapterConfig):
    model = opened(folder)
    adapter = filled(model, 1, lora)
    theirs = peft.PeftModel.from_pretrained(load_reference(folder), str(written(adapter, tmp_path / "adapter"))).eval()
    for sequence in SEQUENCES:
        wanted = theirs(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
        torch.testing.assert_close(logits(model, sequence, adapter), wanted, atol=1e-4, rtol=1e-5)
    merged = load_reference(folder)
    merged.load_state_dict(model.tensors(adapter))
    for sequence in SEQUENCES:
        wanted = merged(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
        torch.testing.assert_close(logits(model, sequence, adapter), wanted, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_what_peft_saves_is_read(folder: Path, tmp_path: Path):
    theirs = peft.get_peft_model(
        load_reference(folder), peft.LoraConfig(r=3, lora_alpha=5, target_modules="all-linear", init_lora_weights=False)
    ).eval()
    theirs.save_pretrained(str(tmp_path / "theirs"))
    model = opened(folder)
    adapter = model.new_adapter(LORA, 0)
    adapter.load_peft_state(load_file(tmp_path / "theirs" / "adapter_model.safetensors"))
    for sequence in SEQUENCES:
        wanted = theirs(input_ids=torch.tensor([sequence]), use_cache=False).logits[0]
        torch.testing.assert_close(logits(model, sequence, adapter), wanted, atol=1e-4, rtol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_depends_on_its_seed(folder: Path):
    model = opened(folder)
    base = logits(model, SEQUENCES[0])
    first, again, other = (model.new_adapter(LORA, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(logits(model, SEQUENCES[0], model.new_adapter(LORA, 1)), base)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_adapters_of_several_kinds_share_a_model(folder: Path):
    """Each is what it is alone, and without one the model is its base, bit for bit."""
    model, sequence = opened(folder), SEQUENCES[0]
    base, names = logits(model, sequence), [name for name, _ in model.named_parameters()]
    adapters = [filled(model, 1), filled(model, 2), filled(model, 3, AdapterConfig(rank=5, targets=FEED_FORWARD))]
    alone = []
    for seed, lora in ((1, LORA), (2, LORA), (3, AdapterConfig(rank=5, targets=FEED_FORWARD))):
        other = opened(folder)
        alone.append(logits(other, sequence, filled(other, seed, lora)))
    for _ in range(2):
        for adapter, wanted in zip(adapters, alone, strict=True):
            assert torch.equal(logits(model, sequence, adapter), wanted)
        assert torch.equal(logits(model, sequence), base)
    assert len(list(model.parameters())) == len(names)


@torch.no_grad()
def test_a_frozen_view_keeps_the_adapter_of_its_time(folder: Path):
    model = opened(folder)
    adapter = filled(model, 1)
    view, wanted = model.frozen(adapter), logits(model, SEQUENCES[0], adapter)
    for weight in adapter.parameters():
        weight.mul_(2)
    assert torch.equal(logits(view, SEQUENCES[0]), wanted)
    assert not torch.equal(logits(model, SEQUENCES[0], adapter), wanted)
    assert next(view.parameters()) is next(model.parameters())


@torch.no_grad()
def test_rows_with_different_adapters_decode_together(folder: Path):
    """Prefilled apart, joined, continued, partly replaced: each row as in a whole pass with its own adapter."""
    model = opened(folder)
    adapters = [model.freeze(filled(model, 1)), model.freeze(filled(model, 2, AdapterConfig(rank=2))), None]
    prompts = [[5, 9, 2], [8, 4, 6, 1, 3], [7]]
    caches: list[HfCache] = []
    for prompt, adapter in zip(prompts, adapters, strict=True):
        caches.append(model.new_cache(1, 9))
        model.prefill([prompt], caches[-1], adapter)
    cache = caches[0].joined(caches[1:], 9)
    assert cache.lengths.tolist() == [3, 5, 1]
    rows = [(torch.tensor([0]), adapters[0]), (torch.tensor([1]), adapters[1])]
    for token in (11, 12):
        hidden = model.decode(torch.tensor([token, token + 1, token + 2]), cache, rows)
        for place, prompt in enumerate(prompts):
            prompt.append(token + place)
            wanted = logits(model, prompt, adapters[place])[-1]
            torch.testing.assert_close(model.logits(hidden)[place], wanted, atol=1e-4, rtol=1e-5)
    fresh = model.new_cache(1, 9)
    model.prefill([[3, 3]], fresh, adapters[0])
    cache.put(torch.tensor([1]), [fresh])
    hidden = model.decode(torch.tensor([1, 1, 1]), cache, [(torch.tensor([0, 1]), adapters[0])])
    for place, prompt in enumerate(([*prompts[0], 1], [3, 3, 1], [*prompts[2], 1])):
        wanted = logits(model, prompt, adapters[0] if place < 2 else None)[-1]
        torch.testing.assert_close(model.logits(hidden)[place], wanted, atol=1e-4, rtol=1e-5)


def test_targets_that_are_not_there_are_named(folder: Path):
    with pytest.raises(ConfigError, match=r"has no c_none; allowed are .*q_proj, k_proj, v_proj, o_proj for all"):
        opened(folder).new_adapter(AdapterConfig(targets=("c_none",)), 0)


def test_tensors_that_do_not_fit_are_named_and_change_nothing(folder: Path):
    adapter = filled(opened(folder), 1)
    state = {name: tensor.clone() for name, tensor in adapter.peft_state().items()}
    name = next(iter(state))
    for change, message in (
        ({name: torch.ones(1, 1)}, "has shape"),
        ({"other": torch.ones(1)}, "holds 'other'"),
        ({name: torch.full_like(state[name], torch.nan)}, "NaN"),
    ):
        with pytest.raises(ModelError, match=message):
            adapter.load_peft_state({key: torch.zeros_like(value) for key, value in state.items()} | change)
    assert all(torch.equal(tensor, state[key]) for key, tensor in adapter.peft_state().items())


def test_without_peft_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'thumbs\[hf\]'"):
        opened(folder).new_adapter(LORA, 0)


def test_an_interrupted_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path):
    spec = ModelSpec("m", ModelConfig(name=str(folder), lora=LORA, dtype="float32"))
    data = []
    for sequence in SEQUENCES[:3]:
        datum = Example.next_token(sequence)
        data.append(Example(datum.inputs, datum.targets, {"weights": np.ones(len(datum.targets), np.float32)}))
    engine = open_engine()
    handle = engine.create(spec)
    assert 0 < engine.size(handle).trained < engine.size(handle).parameters

    def step(engine, handle) -> float:
        loss = engine.forward_backward(handle, data, [TokenLoss(formula="cross_entropy")]).loss
        engine.optim_step(handle, AdamStep(1e-2, 1e-2))
        return loss

    first = [step(engine, handle) for _ in range(2)]
    engine.save(handle, tmp_path / "half", optimizer=True)
    rest = [step(engine, handle) for _ in range(2)]
    again = open_engine()
    resumed = again.create(spec)
    again.load(resumed, tmp_path / "half")
    assert [step(again, resumed) for _ in range(2)] == rest
    assert rest[-1] < first[0]
    ours, theirs = again.forward(resumed, data), engine.forward(handle, data)
    assert all(np.array_equal(a.logprobs, b.logprobs) for a, b in zip(ours, theirs, strict=True))
