"""Ensembles and process rewards on values that are told, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import Handle
from thumbs.records import Example, ForwardOutput, Message, Rollout
from thumbs.rewards.ensemble import RewardEnsemble, member_paths
from thumbs.rewards.steps import StepReward, split_steps, step_ends

TOKENIZER = ByteTokenizer()


class Told:
    """An engine whose values at every place are those of the handle's id."""

    def __init__(self, values: dict[int, Any]) -> None:
        self.values = values

    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        value = np.asarray(self.values[handle.id], dtype=np.float32)
        return [ForwardOutput(np.zeros(len(d)), np.broadcast_to(value, (len(d), *value.shape))) for d in data]


def rollout(text: str) -> Rollout:
    messages = (Message("user", "q"), Message("assistant", text))
    tokens = np.array(TOKENIZER.render(messages)[0])
    mask = (np.arange(1, len(tokens)) >= 3).astype(np.float32)
    return Rollout("p", tokens, 3, mask, 0 * mask, "stop", 0, text, messages)


@pytest.mark.parametrize(
    ("combine", "value"), [("mean", 1.0), ("mean_minus_std", 1.0 - 0.5 * math.sqrt(8)), ("worst", -1.0)]
)
@pytest.mark.parametrize("heads", [True, False])
def test_members_are_normalised_each_by_itself_and_then_combined(combine: Any, value: float, heads: bool):
    """Members say 3 and 15; with means 4 and 9 and deviations 1 and 2 that is -1 and 3."""
    engine: Any = Told({1: [3.0, 15.0]} if heads else {1: 3.0, 2: 15.0})
    handles = [Handle(1, "a")] if heads else [Handle(1, "a"), Handle(2, "b")]
    one = RewardEnsemble(engine, handles, [4.0, 9.0], [1.0, 2.0], combine, std_coef=0.5 * math.sqrt(2))
    (score,) = one.score([rollout("x")])
    assert score.value == pytest.approx(value)
    assert score.parts == pytest.approx({"raw": 9.0, "mean": 1.0, "std": 2.0})
    unscaled = RewardEnsemble(engine, handles, [4.0, 9.0], [1.0, 2.0], combine, 0.5 * math.sqrt(2), scale=1.5)
    assert unscaled.score([rollout("x")])[0].value == pytest.approx(1.5 * value)


def test_members_lie_side_by_side():
    assert [p.name for p in member_paths(Path("reward_model/model"), 3)] == ["model", "model-2", "model-3"]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("one\ntwo", ["one\n", "two"]),
        ("one\n\n\ntwo\n", ["one\n\n\n", "two\n"]),
        ("one", ["one"]),
        ("", [""]),
    ],
)
def test_lines_are_steps_and_blank_ones_belong_to_the_line_before(text: str, steps: list[str]):
    assert split_steps(text) == steps
    assert "".join(steps) == text


def test_a_step_ends_in_the_token_of_its_last_letter():
    """BOS q SEP, then the bytes: é has two."""
    tokens = rollout("né\n\nab c\nd").tokens
    ends = step_ends(TOKENIZER, tokens, 3, ["né\n\n", "ab c\n", "d"])
    assert ends == [5, 11, len(tokens) - 1]
    assert bytes(tokens[4:6].tolist()).decode() == "é"
    assert chr(tokens[11]) == "c"


@pytest.mark.parametrize("reread", [False, True])
def test_steps_are_paid_where_they_end(reread: bool):
    engine: Any = Told({1: math.log(3)})  # P(right) = 3/4 everywhere
    source = StepReward(engine, Handle(1, "a"), TOKENIZER, "process", reread=reread)
    (score,) = source.score([rollout("ab\nc")])
    assert score.value == pytest.approx(2 * math.log(0.75))
    assert score.parts == {"steps": 2.0}
    paid = [0, math.log(0.75), 0, 0, math.log(0.75)]  # a b, line break, c, EOS
    assert score.tokens is None if reread else score.tokens == pytest.approx(paid)
    mean = StepReward(engine, Handle(1, "a"), TOKENIZER, "process_regression")
    assert mean.score([rollout("ab\nc")])[0].value == pytest.approx(math.log(3))
