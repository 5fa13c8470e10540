"""The group stage and direct preference optimisation on tasks whose best policy is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_ppo_learns import LETTERS, QUESTIONS, answers, letters_policy

from byte_world import byte_context, pair, prompt
from thumbs.config.data import DataConfig
from thumbs.config.group import GroupConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.preference import DpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.group import Group
from thumbs.stages.preference import run_dpo
from thumbs.tracking.metrics import METRICS

PROMPTS = DataConfig(path="unused")
BEST = {"x": ord("e"), "y": ord("c")}


@pytest.mark.parametrize("scale", [True, False])
def test_groups_find_the_letter_that_is_paid(tmp_path: Path, scale: bool):
    """Without a price on distance the best policy always answers the paid letter."""
    context = byte_context(tmp_path)
    config = GroupConfig(
        prompts=PROMPTS,
        steps=25,
        batch_size=64,
        minibatch_size=32,
        group_size=16,
        optim=AdamConfig(learning_rate=3e-4, schedule="constant"),
        sampling=SamplingConfig(max_new_tokens=1),
        scale=scale,
    )
    policy = context.engine.create(ModelSpec("p", context.model, start=letters_policy(context)))
    paid = CallableReward(lambda rollout: float(rollout.tokens[-1] == BEST[rollout.prompt_id]))
    group = Group(context, config, policy, paid, [prompt(question) for question in QUESTIONS] * 8)
    before = [answers(context, policy, question)[letter] for question, letter in BEST.items()]
    for step in range(config.steps):
        report = group.step(step)
    assert max(before) < 0.25
    assert min(answers(context, policy, question)[letter] for question, letter in BEST.items()) > 0.8
    assert report.metrics["group/score"] > 0.7
    assert set(report.metrics) <= set(METRICS)


def test_equal_scores_change_nothing(tmp_path: Path):
    context = byte_context(tmp_path)
    config = GroupConfig(
        prompts=PROMPTS, batch_size=8, minibatch_size=8, group_size=8, sampling=SamplingConfig(max_new_tokens=2)
    )
    policy = context.engine.create(ModelSpec("p", context.model, start=letters_policy(context)))

    def same(rollout: Rollout) -> float:
        return 3.0

    before = answers(context, policy, "x")
    Group(context, config, policy, CallableReward(same), [prompt("x")]).step(0)
    np.testing.assert_array_equal(answers(context, policy, "x"), before)


def test_groups_that_do_not_divide_are_refused(tmp_path: Path):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("p", context.model))

    def group(config: GroupConfig) -> Group:
        return Group(context, config, policy, CallableReward(lambda _: 0.0), [prompt("x")])

    with pytest.raises(ConfigError, match=r"group\.minibatch_size=12 is not a multiple of group\.group_size=8"):
        group(GroupConfig(prompts=PROMPTS, batch_size=24, minibatch_size=12))
    with pytest.raises(ConfigError, match="top_k=5"):
        group(GroupConfig(prompts=PROMPTS, sampling=SamplingConfig(top_k=5)))


def test_dpo_reaches_the_policy_that_its_pairs_describe(tmp_path: Path):
    """With P(a over b) = σ(r(a) - r(b)) the optimum is π ∝ π_ref exp(r / β) (arXiv:2305.18290, eq. 4)."""
    context = byte_context(tmp_path)
    start, beta, rng = letters_policy(context), 0.5, np.random.default_rng(0)
    likes = dict(zip(LETTERS.tolist(), np.linspace(-1, 1, 8), strict=True))
    pairs = []
    for a in likes:
        for b in likes:
            if a == b:
                continue
            for _ in range(12):
                verdict = "first" if rng.random() < 1 / (1 + np.exp(likes[b] - likes[a])) else "second"
                pairs.append(pair("x", chr(a), chr(b), verdict))
    reference = context.engine.create(ModelSpec("r", context.model, start=start))
    lifted = answers(context, reference, "x")[LETTERS] * np.exp(np.linspace(-1, 1, 8) / beta)
    best = lifted / lifted.sum()
    config = DpoConfig(epochs=4, batch_size=84, beta=beta, optim=AdamConfig(learning_rate=1e-4))
    run_dpo(context, config, start, pairs)
    policy = context.engine.create(ModelSpec("p", context.model, start=context.best))
    found, was = (answers(context, handle, "x")[LETTERS] for handle in (policy, reference))
    far, near = (np.abs(best - p / p.sum()).sum() / 2 for p in (was, found))
    assert far > 0.3
    assert near < 0.35 * far
