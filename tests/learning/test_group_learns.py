"""The group family on tasks whose best policy is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_ppo_learns import QUESTIONS, answers, best_policy, letter_scores, letters_policy

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.engine import RolloutConfig
from thumbs.config.group import GroupConfig
from thumbs.config.group_methods import GROUP_METHODS
from thumbs.config.optim import AdamConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.group import Group, GroupReport
from thumbs.tracking.metrics import METRICS

PROMPTS = DataConfig(path="unused")
BEST = {"x": ord("e"), "y": ord("c")}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that answers with any of eight letters."""
    return letters_policy(byte_context(tmp_path_factory.mktemp("start")))


def letter_config(**settings: object) -> GroupConfig:
    return GroupConfig(
        **{
            "prompts": PROMPTS,
            "steps": 26,
            "batch_size": 64,
            "minibatch_size": 64,
            "group_size": 16,
            "optim": AdamConfig(learning_rate=7e-4, schedule="constant"),
            "sampling": SamplingConfig(max_new_tokens=1),
            "overlong_penalty": 0.0,
            **settings,
        }  # type: ignore[arg-type]
    )


def paid(rollout: Rollout) -> float:
    return float(rollout.tokens[-1] == BEST[rollout.prompt_id])


def learn(context: Context, config: GroupConfig, start: Path) -> tuple[dict[str, np.ndarray], GroupReport]:
    """The first letters' probabilities after training, by question, and the last report."""
    policy = context.engine.create(ModelSpec("p", context.model, start=start))
    reference = context.engine.create(ModelSpec("r", context.model, start=start, trainable=False))
    prompts = [prompt(question) for question in QUESTIONS] * 8
    group = Group(context, config, policy, CallableReward(paid), prompts, reference)
    reports = [group.step(number) for number in range(config.steps)]
    return {question: answers(context, policy, question) for question in QUESTIONS}, reports[-1]


@pytest.mark.parametrize("method", GROUP_METHODS)
def test_every_method_finds_the_letter_that_is_paid(tmp_path: Path, start: Path, method: str):
    """With a price on distance that is small beside the pay, the best policy nearly always answers the paid letter."""
    context = byte_context(tmp_path)
    found, report = learn(context, letter_config(method=method), start)
    assert min(found[question][letter] for question, letter in BEST.items()) > 0.8
    assert report.metrics["group/score"] > 0.7
    assert abs(report.metrics["group/ratio_first"] - 1) < 1e-3
    assert set(report.metrics) <= set(METRICS)


def forward_best(reference: np.ndarray, scores: np.ndarray, beta: float) -> np.ndarray:
    """The policy that maximises E[score] - β KL(π_ref ‖ π): β π_ref / (λ - score), with λ such that it sums to 1."""
    low, high = scores.max() + 1e-9, scores.max() + 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (beta * reference / (middle - scores)).sum() > 1 else (low, middle)
    return beta * reference / (high - scores)


@pytest.mark.parametrize(
    ("method", "kl", "estimator", "near", "far"),
    [("rloo", "reward", "k1", 0.4, 1.0), ("dr_grpo", "loss", "k2", 0.45, 1.0), ("dr_grpo", "loss", "k3", 1.0, 0.4)],
)
def test_the_price_of_kl_leads_to_the_policy_that_is_best_with_it(
    tmp_path: Path, start: Path, method: str, kl: str, estimator: str, near: float, far: float
):
    """Paid in the reward or with k2 in the loss, β leads to π* ∝ π_ref exp(score / β). The gradient of k3 is that of
    KL(π_ref ‖ π), so in the loss it leads elsewhere. `near`, `far`: what is left of the distance to either.
    """
    context, beta = byte_context(tmp_path), 0.5
    adam = AdamConfig(learning_rate=3e-4, schedule="linear")
    price = {"kl": kl, "kl_coef": beta, "kl_estimator": estimator}
    config = letter_config(method=method, steps=40, optim=adam, **price)
    policy = context.engine.create(ModelSpec("p", context.model, start=start))
    reference = context.engine.create(ModelSpec("r", context.model, start=start, trainable=False))
    reward = CallableReward(lambda rollout: letter_scores(rollout.prompt_id)[rollout.tokens[-1]])
    group = Group(context, config, policy, reward, [prompt(question) for question in QUESTIONS] * 8, reference)
    was, scores = answers(context, reference, "x"), letter_scores("x")
    best = best_policy(was, scores, beta)[0], forward_best(was, scores, beta)

    def distances() -> list[float]:
        return [float(np.abs(answers(context, policy, "x") - p).sum()) / 2 for p in best]

    before = distances()
    for step in range(config.steps):
        group.step(step)
    after = distances()
    assert min(before) > 0.3
    assert after[0] < near * before[0]
    assert after[1] < far * before[1]
    assert (after[0] < after[1]) == (estimator != "k3")


def test_rollouts_of_older_weights_are_learned_from_within_the_bound(tmp_path: Path, start: Path):
    """Two steps old, as if sampling and training ran side by side; the age is what it says, and the task is learned."""
    context = replace(byte_context(tmp_path), rollout=RolloutConfig(staleness=2))
    found, report = learn(context, letter_config(method="dr_grpo", steps=20), start)
    assert report.metrics["group/staleness"] == 2
    assert report.metrics["group/importance"] != 1
    assert abs(report.metrics["group/ratio_first"] - 1) < 1e-3  # to the policy of the step
    assert min(found[question][letter] for question, letter in BEST.items()) > 0.8


def test_equal_scores_change_nothing(tmp_path: Path, start: Path):
    context = byte_context(tmp_path)
    config = letter_config(batch_size=8, minibatch_size=8, group_size=8, kl="none")
    policy = context.engine.create(ModelSpec("p", context.model, start=start))
    before = answers(context, policy, "x")
    report = Group(context, config, policy, CallableReward(lambda _: 3.0), [prompt("x")]).step(0)
    np.testing.assert_array_equal(answers(context, policy, "x"), before)
    assert report.metrics["group/without_signal"] == 1


def test_groups_without_signal_are_replaced_up_to_a_bound(tmp_path: Path, start: Path):
    """Only the replies to "y" differ in score, so batches of both questions are drawn until there are enough of it."""
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("p", context.model, start=start))
    differing = CallableReward(lambda r: float(r.tokens[-1]) if r.prompt_id == "y" else 0.0)
    prompts = [prompt(question) for question in QUESTIONS] * 2

    def step(more: int) -> GroupReport:
        config = letter_config(batch_size=32, minibatch_size=32, group_size=8, kl="none", dynamic_sampling=more)
        return Group(context, config, policy, differing, prompts).step(0)

    # Four groups a batch, two of them with signal: a second batch brings what is missing.
    assert {name: step(5).metrics[f"group/{name}"] for name in ("redraws", "without_signal", "dropped")} == {
        "redraws": 1,
        "without_signal": 0,
        "dropped": 0,
    }
    assert {rollout.prompt_id for rollout in step(5).rollouts} == {"y"}
    assert step(0).metrics["group/without_signal"] == 0.5


def test_settings_that_do_not_fit_are_refused(tmp_path: Path):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("p", context.model))

    def group(config: GroupConfig) -> Group:
        return Group(context, config, policy, CallableReward(lambda _: 0.0), [prompt("x")])

    with pytest.raises(ConfigError, match=r"group\.minibatch_size=12 is not a multiple of group\.group_size=8"):
        group(GroupConfig(prompts=PROMPTS, batch_size=24, minibatch_size=12))
    with pytest.raises(ConfigError, match="top_k=5"):
        group(GroupConfig(prompts=PROMPTS, sampling=SamplingConfig(top_k=5)))
    with pytest.raises(ConfigError, match="method grpo prices KL, which needs a reference"):
        group(GroupConfig(prompts=PROMPTS))
