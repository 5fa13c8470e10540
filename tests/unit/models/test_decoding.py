"""The plan of a decoding step against the layers it stands for."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, Qwen2Config

from thumbs.models import decoding, kernels
from thumbs.models.causal_lm import CausalLM
from thumbs.models.weights import load_decoder, merged_copy, prepack_decoder
from tiny_models import SHAPE, random_sequences, save_random

WIDE = SHAPE | {"hidden_size": 192, "intermediate_size": 64, "head_dim": 32, "num_attention_heads": 6}
PROMPTS = random_sequences(5, [5, 1, 9, 3])

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels")


def sampled(config, folder, dtype: torch.dtype) -> CausalLM:
    model = load_decoder(save_random(config, folder), dtype, master=False)
    return prepack_decoder(merged_copy(model, None, dtype))


def replies(model: CausalLM, steps: int = 6) -> tuple[torch.Tensor, bool]:
    """Final hidden states of greedy steps; a row leaves in the middle. And whether a plan was used."""
    cache = model.new_cache(len(PROMPTS), 20)
    hidden, seen, planned = model.prefill(PROMPTS, cache), [], False
    for step in range(steps):
        tokens = model.logits(hidden).argmax(-1)
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
    model = sampled(LlamaConfig(**WIDE, tie_word_embeddings=True), tmp_path, dtype)
    monkeypatch.setattr("thumbs.models.prepacked.torch.cpu._is_amx_tile_supported", lambda: False)
    found, planned = replies(model)
    assert planned == all(weight.ndim == 3 for weight in (model.blocks[0].qkv, model.blocks[0].down))
    monkeypatch.setattr(decoding.DecodingPlan, "fits", lambda _: False)
    expected, planned = replies(model)
    assert not planned
    assert torch.equal(found, expected)


@torch.no_grad()
def test_layers_with_biases_do_without_a_plan(tmp_path):
    shape = {name: size for name, size in WIDE.items() if name != "head_dim"}
    assert not replies(sampled(Qwen2Config(**shape, tie_word_embeddings=True), tmp_path, torch.float32))[1]
