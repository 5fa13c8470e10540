"""Token rewards against a slow loop, and scores on the scale that PPO sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from byte_world import byte_context
from thumbs.config.data import DataConfig
from thumbs.config.ppo import PpoConfig
from thumbs.engine.base import ModelSpec
from thumbs.records import Rollout, Score, StopReason
from thumbs.rewards.base import CallableReward
from thumbs.rewards.model import RewardModel, member_scores
from thumbs.rewards.shaping import shape_scores, token_rewards

PPO = PpoConfig(prompts=DataConfig(path="unused"))


def slow_token_rewards(scores: list[float], kl: np.ndarray, mask: np.ndarray, coef: float) -> np.ndarray:
    rewards = np.zeros(mask.shape)
    for row in range(mask.shape[0]):
        last = None
        for target in range(mask.shape[1]):
            if mask[row, target]:
                rewards[row, target] = -coef * kl[row, target]
                last = target
        if last is not None:
            rewards[row, last] += scores[row]
    return rewards


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 7), st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_token_rewards_equal_the_slow_loop(rows: int, targets: int, seed: int, coef: float):
    """Random masks: several turns, nothing before, nothing after, nothing at all."""
    random = np.random.default_rng(seed)
    mask = random.integers(0, 2, (rows, targets)).astype(np.float32)
    kl, scores = random.normal(size=(rows, targets)), random.normal(size=rows)
    found = token_rewards(torch.tensor(scores), torch.tensor(kl), torch.tensor(mask), coef)
    np.testing.assert_allclose(found, slow_token_rewards(scores.tolist(), kl, mask, coef), atol=1e-6)


def test_token_rewards_by_hand():
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
    kl = torch.tensor([[9.0, 0.5, -1.0, 9.0], [9.0, 9.0, 2.0, 0.0]])
    found = token_rewards(torch.tensor([3.0, -1.0]), kl, mask, 0.1)
    torch.testing.assert_close(found, torch.tensor([[0.0, -0.05, 3.1, 0.0], [0.0, 0.0, -0.2, -1.0]]))


def rollout(stop: StopReason, tokens: Sequence[int] = (1, 2, 3)) -> Rollout:
    mask = np.ones(len(tokens) - 1, np.float32)
    return Rollout("p", np.array(tokens), 1, mask, -mask, stop, 0, "text")


def test_scores_are_clipped_before_a_cut_is_punished():
    config = PPO.model_copy(update={"score_clip": 2.0, "missing_eos_penalty": 0.5})
    stops: list[StopReason] = ["stop", "length", "length", "stop"]
    scores = [Score(7.0), Score(7.0), Score(-7.0), Score(1.0)]
    found = shape_scores(scores, [rollout(stop) for stop in stops], config)
    assert found.tolist() == [2.0, 1.5, -2.5, 1.0]


def test_without_clip_and_penalty_scores_stay():
    config = PPO.model_copy(update={"score_clip": None})
    assert shape_scores([Score(70.0), Score(-7.0)], [rollout("length")] * 2, config).tolist() == [70.0, -7.0]


def test_a_callable_scores_each_rollout():
    reward = CallableReward(lambda r: len(r.tokens))
    assert [s.value for s in reward.score([rollout("stop"), rollout("stop", (1, 2))])] == [3.0, 2.0]


def test_a_reward_model_gives_scores_in_deviations_from_the_mean(tmp_path: Path):
    context = byte_context(tmp_path)
    model = context.engine.create(ModelSpec("r", context.model, ("scalar",)))
    head = context.engine.model(model).scalar  # type: ignore[attr-defined]
    with torch.no_grad():
        head.weight.copy_(torch.linspace(-1, 1, len(head.weight)))
        head.bias.fill_(0.5)
    rollouts = [rollout("stop", (1, 2, 3)), rollout("stop", (7, 8, 9, 10))]
    raw = member_scores(context.engine, [model], [r.tokens for r in rollouts])[:, 0]
    trunk = context.engine.model(model).trunk  # type: ignore[attr-defined]
    for r, score in zip(rollouts, raw, strict=True):
        with torch.no_grad():
            hidden = trunk.forward_packed(torch.tensor(r.tokens), [len(r.tokens)], None)[-1]
            by_hand = float(hidden @ head.weight) + 0.5
        assert score == pytest.approx(by_hand, rel=1e-4)
    found = RewardModel(context.engine, model, mean=2.0, std=4.0).score(rollouts)
    assert [s.value for s in found] == pytest.approx([(value - 2.0) / 4.0 for value in raw])
    assert [s.parts["raw"] for s in found] == pytest.approx(list(raw))
