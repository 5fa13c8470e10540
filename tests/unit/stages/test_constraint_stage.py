"""A limit on cost in PPO and in groups: what the engine gets, λ from step to step, what is refused, a run resumed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from byte_world import byte_context, prompt
from thumbs.config.base import build_config
from thumbs.config.group import GroupConfig
from thumbs.config.ppo import PpoConfig
from thumbs.errors import ConfigError, RewardError
from thumbs.records import Rollout, Score
from thumbs.rewards.base import CallableReward
from thumbs.rewards.mix import Mix, Part, with_cost
from thumbs.stages import group as groups
from thumbs.stages import ppo as ppos
from thumbs.stages.constraint import price
from thumbs.stages.group import run_group
from thumbs.stages.group_supply import has_signal
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.rollouts import check_rounds

PROMPTS = [prompt(word) for word in ("one", "two", "three", "four")]
BASE: dict[str, Any] = {
    "prompts": {"path": "unused"},
    "steps": 4,
    "batch_size": 8,
    "minibatch_size": 8,
    "sampling": {"max_new_tokens": 4},
    "save_every": 2,
    "constraint": {"cost": "some:function", "limit": 0.1, "rate": 0.5, "max": 3.0},
}
CLOCKS = {"rollout_s", "update_s", "tokens_per_s", "wall_s"}


def odd(rollout: Rollout) -> float:
    return float((rollout.tokens[rollout.prompt_length :] % 7).sum())


def first_byte_is_low(rollout: Rollout) -> float:
    return float(rollout.tokens[rollout.prompt_length] < 128)


def settings(method: str, **changes: Any) -> Any:
    given = BASE | changes
    return build_config(PpoConfig, given) if method == "ppo" else build_config(GroupConfig, given | {"group_size": 4})


def train(method: str, folder: Path, config: Any, cost: Callable[[Rollout], float] = first_byte_is_low) -> list[dict]:
    run = run_ppo if method == "ppo" else run_group
    context = byte_context(folder)
    run(context, config, CallableReward(odd), None, PROMPTS, cost=CallableReward(cost))
    return context.folder.metrics.read()


@pytest.mark.parametrize("method", ["ppo", "group"])
def test_lambda_follows_the_cost_of_each_step_as_the_formula_says(tmp_path: Path, method: str):
    rows = train(method, tmp_path, settings(method))
    multiplier = 1.0
    for row in rows:
        assert row[f"{method}/lambda"] == pytest.approx(multiplier, rel=1e-12)
        assert 0 <= row[f"{method}/cost"] <= 1
        assert f"{method}/part/cost" not in row
        multiplier = min(multiplier * math.exp(0.5 * multiplier * (row[f"{method}/cost"] - 0.1)), 3.0)
    assert len({row[f"{method}/lambda"] for row in rows}) > 1


@pytest.mark.parametrize("method", ["ppo", "group"])
def test_a_killed_run_goes_on_to_the_same_lambda_and_the_same_weights(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    config = settings(method, steps=5)
    whole = train(method, tmp_path / "whole", config)
    owner: Any = ppos.Ppo if method == "ppo" else groups.Group
    step = owner.step

    def stopping(self: Any, number: int, *rest: Any) -> Any:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number, *rest)

    monkeypatch.setattr(owner, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(method, tmp_path / "parts", config)
    monkeypatch.undo()
    parts = train(method, tmp_path / "parts", config)

    def numbers(rows: list[dict]) -> list[dict]:
        return [{k: v for k, v in row.items() if k.rpartition("/")[2] not in CLOCKS} for row in rows]

    assert numbers(parts) == numbers(whole)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("method", ["ppo", "group"])
def test_lambda_at_its_maximum_is_an_alarm_and_so_it_stands_in_the_file_of_alarms(tmp_path: Path, method: str):
    config = settings(method, constraint={**BASE["constraint"], "rate": 5.0})
    rows = train(method, tmp_path, config, lambda _: 1.0)
    at_most = [row["step"] for row in rows if row[f"{method}/lambda"] == 3.0]
    said = [row for row in byte_context(tmp_path).folder.alarms.read() if row["sign"] == "infeasible"]
    assert [row["step"] for row in said] == at_most[:1] != []
    assert f"{method}.constraint.max = 3, and the cost is 1: the limit of 0.1 is infeasible" in said[0]["alarm"]
    kept = train(method, tmp_path / "kept", settings(method), lambda _: 0.0)
    assert [row[f"{method}/lambda"] for row in kept] == sorted((r[f"{method}/lambda"] for r in kept), reverse=True)
    assert "infeasible" not in [r["sign"] for r in byte_context(tmp_path / "kept").folder.alarms.read()]


def test_a_cost_is_taken_off_the_score_and_counts_in_no_score(tmp_path: Path):
    scores = [Score(2.0, {"reward": 2.0, "cost": 0.5}), Score(-1.0, {"cost": 0.0})]
    shaped = torch.tensor([1.5, -1.0])  # clipped
    found = price(settings("ppo"), shaped, scores, 2.0)
    assert found.scores.tolist() == [0.5, -1.0]
    assert found.metrics == {"ppo/cost": 0.25, "ppo/lambda": 2.0}
    assert found.multiplier == pytest.approx(2.0 * math.exp(0.5 * 2.0 * 0.15))
    divided = settings("ppo", constraint={**BASE["constraint"], "rule": "safe_rlhf"})
    assert price(divided, shaped, scores, 2.0).scores.tolist() == pytest.approx([0.5 / 3, -1 / 3])
    free = price(settings("ppo", constraint=None), shaped, scores, None)
    assert (free.scores.tolist(), free.metrics, free.multiplier) == ([1.5, -1.0], {}, 0.0)


def a_rollout() -> Rollout:
    mask, logprobs = np.array([0, 1], np.float32), np.array([0, -1], np.float32)
    return Rollout("p", np.array([1, 2, 3]), 2, mask, logprobs, "stop", 0, "a", prompt("one").messages)


def test_a_mix_keeps_its_parts_next_to_the_cost():
    mixed = Mix([Part("a", CallableReward(lambda _: 2.0), 3.0), Part("b", CallableReward(lambda _: 1.0))])
    for reward, parts in ((mixed, {"a": 2.0, "b": 1.0}), (CallableReward(lambda _: 7.0), {"reward": 7.0})):
        (score,) = with_cost(reward, CallableReward(lambda _: 0.25)).score([a_rollout()])
        assert (score.value, score.parts) == (7.0, {**parts, "cost": 0.25})


def test_a_reply_without_a_cost_is_refused():
    with pytest.raises(RewardError, match=r"reply 1 of the step has no cost, which ppo\.constraint limits"):
        price(settings("ppo"), torch.zeros(2), [Score(0.0, {"cost": 1.0}), Score(0.0, {})], None)


def test_a_group_whose_replies_differ_in_cost_alone_teaches_something():
    assert has_signal([Score(1.0, {"cost": 0.0}), Score(1.0, {"cost": 1.0})])
    assert not has_signal([Score(1.0, {"cost": 1.0}), Score(1.0, {"cost": 1.0})])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"constraint": {"cost": {"function": "a:b", "weight": 2.0}, "limit": 0.1}}, "its weight is λ"),
        ({"constraint": {"cost": {"function": "a:b", "name": "harm"}, "limit": 0.1}}, "metrics call it ppo/cost"),
        ({"constraint": {"cost": {"environment": True}, "limit": 0.1}}, "an environment gives rewards and no costs"),
        ({"constraint": {"cost": {"function": "a:b", "judge": "c"}, "limit": 0.1}}, "got function and judge"),
        ({"constraint": {"limit": 0.1, "start": 20.0}}, "ppo.constraint.start=20 is above ppo.constraint.max=10"),
        ({"whiten_advantages": False}, "needs ppo.whiten_advantages"),
        ({"reward": [{"function": "a:b", "name": "cost"}]}, "give that part another `name`"),
    ],
)
def test_settings_of_a_constraint_that_do_not_fit_are_refused(changes: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        check_rounds(settings("ppo", **changes))


def test_a_cost_is_given_by_name_or_as_a_section():
    for given, field, value in (
        ("cost_model", "model", "cost_model"),
        ("a.b:c", "function", "a.b:c"),
        ({"judge": "m"}, "judge", "m"),
        (None, "model", "cost_model"),
    ):
        config = settings("ppo", constraint={"cost": given, "limit": 0.1})
        assert getattr(config.constraint.source, field) == value
        check_rounds(config)


@pytest.mark.parametrize("method", ["ppo", "group"])
def test_a_stage_that_is_given_no_cost_refuses(tmp_path: Path, method: str):
    run: Any = run_ppo if method == "ppo" else run_group
    with pytest.raises(ConfigError, match=f"{method}.constraint limits a cost"):
        run(byte_context(tmp_path), settings(method), CallableReward(odd), None, PROMPTS)
