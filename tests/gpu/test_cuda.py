"""On a GPU the engine computes what it computes on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from thumbs.config.losses import CROSS_ENTROPY, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.functional.logprobs import NarrowVocabulary, Vocabulary, target_logprobs
from thumbs.models import packed_attention
from thumbs.models.rows import Rows
from thumbs.records import Example
from thumbs.rollout.sampler import DecodingParams

GPU = "cuda"

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def engine_on(device: str, monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    monkeypatch.setattr("thumbs.models.trunk.device", lambda: torch.device(device))
    return LocalEngine()


def batch() -> list[Example]:
    """Two replies to each of two prompts, with all that PPO's losses want."""
    random, data = np.random.default_rng(0), []
    for prompt in (random.integers(0, 250, 20), random.integers(0, 250, 33)):
        for length in (5, 11):
            tokens = np.r_[prompt, random.integers(0, 250, length)]
            weights = np.r_[np.zeros(len(prompt) - 1), np.ones(length)] / 100
            columns = {name: random.normal(size=len(weights)) / 10 for name in ("advantages", "values", "returns")}
            data.append(Example.next_token(tokens, weights=weights, logprobs=np.full(len(weights), -5.5), **columns))
    return data


@pytest.mark.parametrize("lora", [None, AdapterConfig(rank=4), AdapterConfig(rank=4, layers=1)])
@pytest.mark.parametrize(
    "losses", [[CROSS_ENTROPY], [TokenLoss.of("ppo_clip", entropy_coef=0.01), TokenLoss.of("value_clip")]]
)
def test_training_takes_the_steps_of_the_cpu(lora, losses, monkeypatch):
    model, found = ModelConfig(name="byte-tiny", lora=lora, dtype="float32"), {}
    for device in ("cpu", GPU):
        engine = engine_on(device, monkeypatch)
        handle = engine.create(ModelSpec("policy", model, ("lm", "scalar")))
        steps = []
        for _ in range(4):
            output = engine.forward_backward(handle, batch(), losses)
            steps.append([output.loss, engine.optim_step(handle, AdamStep(1e-3, 1e-3)).grad_norm])
        found[device] = np.array(steps)
    np.testing.assert_allclose(found[GPU], found["cpu"], rtol=2e-3)


def test_sampling_draws_the_tokens_of_the_cpu(monkeypatch):
    model, prompts, found = ModelConfig(name="byte-tiny", dtype="float32"), [[5, 6, 7], [8], [5, 6, 7]], {}
    for device in ("cpu", GPU):
        engine = engine_on(device, monkeypatch)
        sampler = engine.snapshot(engine.create(ModelSpec("policy", model)))
        found[device] = sampler.sample(prompts, DecodingParams(max_new_tokens=12, stop_tokens=()), [1, 2, 3])
    for ours, expected in zip(found[GPU], found["cpu"], strict=True):
        assert ours.tokens.tolist() == expected.tokens.tolist()
        np.testing.assert_allclose(ours.logprobs, expected.logprobs, atol=1e-3)


def test_bfloat16_stays_near_float32(monkeypatch):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        engine = engine_on(GPU, monkeypatch)
        handle = engine.create(ModelSpec("policy", ModelConfig(name="byte-tiny", dtype=dtype)))
        losses[dtype] = engine.forward_backward(handle, batch(), [CROSS_ENTROPY]).loss
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=1e-2)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("parents", [[-1, -1, -1], [-1, 0, 0]])
def test_packed_attention_and_its_gradient_are_those_of_dense_attention(parents, window):
    rows = Rows.of([70, 9, 33], torch.device(GPU), parents)
    torch.manual_seed(0)
    inputs = [torch.randn(rows.count, heads, 64, device=GPU, dtype=torch.bfloat16) for heads in (4, 2, 2)]
    ours, theirs = ([x.clone().requires_grad_() for x in inputs] for _ in range(2))
    assert packed_attention.usable(ours[0])
    found = packed_attention.attend(*ours, rows, window)
    query, key, value = (x.float().transpose(0, 1) for x in theirs)
    key, value = (x.repeat_interleave(2, 0) for x in (key, value))
    back = rows.positions[:, None] - rows.positions[None]
    mask = rows.continues.to(GPU)[rows.segment[:, None], rows.segment[None]] & (back >= 0)
    mask = mask if window is None else mask & (back < window)
    expected = F.scaled_dot_product_attention(query[None], key[None], value[None], attn_mask=mask)[0].transpose(0, 1)
    slope = torch.randn_like(expected)
    found.backward(slope.to(found.dtype))
    expected.backward(slope)
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)
    for mine, oracle in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad.float(), oracle.grad.float(), atol=5e-2, rtol=5e-2)


def test_narrow_products_give_the_logprobs_of_wide_ones():
    torch.manual_seed(0)
    hidden, weight = torch.randn(300, 64, device=GPU).bfloat16(), torch.randn(1000, 64, device=GPU).bfloat16()
    targets = torch.randint(1000, (300,), device=GPU)
    found = []
    for vocabulary in (NarrowVocabulary(128), Vocabulary(128)):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        logprobs, entropy = target_logprobs(x, w, targets, 0.7, vocabulary)
        (logprobs.sum() + entropy.sum()).backward()
        found.append([logprobs.detach(), x.grad, w.grad])
    torch.testing.assert_close(found[0][0], found[1][0], atol=2e-3, rtol=1e-3)
    for mine, theirs in zip(found[0][1:], found[1][1:], strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-2, rtol=2e-2)


def test_a_snapshot_with_an_adapter_takes_no_copy_of_the_model(monkeypatch):
    engine = engine_on(GPU, monkeypatch)
    model = ModelConfig(name="byte-small", lora=AdapterConfig(rank=4), dtype="bfloat16")
    handle = engine.create(ModelSpec("policy", model))
    before = torch.cuda.memory_allocated()
    samplers = [engine.snapshot(handle) for _ in range(3)]
    assert torch.cuda.memory_allocated() - before < 3 * engine.size(handle).trunk_bytes / 4
    assert len(samplers) == 3
