"""On a GPU the engine computes what it computes on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thumbs.config.losses import CROSS_ENTROPY, TokenLoss
from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.engine.local import LocalEngine
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
