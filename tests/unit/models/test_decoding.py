"""The plan of a decoding step against the layers it stands for."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from compiled_kernels import NEEDS_COMPILER, assert_built
from thumbs.models import decoding
from thumbs.models.causal_lm import CausalLM, load_decoder, merged_copy, prepack_decoder
from tiny_models import SHAPE, random_sequences, save_random

WIDE = SHAPE | {"hidden_size": 192, "intermediate_size": 64, "head_dim": 32, "num_attention_heads": 6}
PROMPTS = random_sequences(5, [5, 1, 9, 3])

pytestmark = NEEDS_COMPILER


@pytest.fixture(autouse=True)
def _packed_for_our_kernels(monkeypatch: pytest.MonkeyPatch):
    """With AMX too, where bfloat16 would be oneDNN's."""
    assert_built(monkeypatch)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)


def decoders(config, folder, dtype: torch.dtype) -> tuple[CausalLM, CausalLM]:
    """A model as it was loaded, and prepacked."""
    model = load_decoder(save_random(config, folder), dtype, master=False)
    return model, prepack_decoder(merged_copy(model, None, dtype))


def replies(model: CausalLM, steps: int = 6) -> tuple[torch.Tensor, bool]:
    """Final hidden states of steps with fixed tokens; a row leaves in the middle. And whether a plan was used."""
    cache = model.new_cache(len(PROMPTS), 20)
    hidden, seen, planned = model.prefill(PROMPTS, cache), [], False
    for step in range(steps):
        tokens = torch.tensor([11, 22, 33, 44][: len(hidden)]) + step
        if step == 3:
            cache.select(torch.tensor([3, 0, 1]))
            tokens = tokens[torch.tensor([3, 0, 1])]
        hidden = model.decode(tokens, cache).clone()
        planned = planned or cache.plan is not None
        seen.append(hidden)
    return torch.cat(seen), planned


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_gives_the_bits_of_the_layers(tmp_path, monkeypatch, dtype):
    plain, packed = decoders(LlamaConfig(**WIDE, tie_word_embeddings=True), tmp_path, dtype)
    found, planned = replies(packed)
    assert planned
    monkeypatch.setattr(decoding.DecodingPlan, "fits", lambda *_: False)
    expected, planned = replies(packed)
    assert not planned
    assert torch.equal(found, expected)
    unpacked, _ = replies(plain)
    near = {torch.float32: 1e-4, torch.bfloat16: 0.1}[dtype]  # the products round otherwise
    torch.testing.assert_close(found, unpacked, atol=near, rtol=near)


@torch.no_grad()
def test_layers_with_biases_do_without_a_plan(tmp_path):
    shape = {name: size for name, size in WIDE.items() if name != "head_dim"}
    plain, packed = decoders(Qwen2Config(**shape, tie_word_embeddings=True), tmp_path, torch.float32)
    found, planned = replies(packed)
    assert not planned
    torch.testing.assert_close(found, replies(plain)[0], atol=1e-4, rtol=1e-4)
