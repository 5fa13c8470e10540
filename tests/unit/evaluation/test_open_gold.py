"""A function as gold scores every reply, or the evaluation stops and says which one it did not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest

from thumbs.config.evaluation import GoldConfig
from thumbs.errors import RewardError
from thumbs.evaluation.gold import open_gold
from thumbs.records import Message, Rollout
from thumbs.rewards.base import RewardSource

TALK = (Message("user", "Hello?"), Message("assistant", "Hi."))


def silent_on_the_second(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
    return [None if place == 1 else 3.0 for place, _ in enumerate(completions)]


def in_words(rollout: Rollout) -> Any:
    return "good"


def unknown(rollout: Rollout) -> float:
    return float("nan")


@pytest.mark.parametrize(
    ("name", "said"),
    [("silent_on_the_second", "got None; a gold scores every reply"), ("in_words", "good"), ("unknown", "nan")],
)
def test_a_gold_that_does_not_score_a_reply_is_refused(name: str, said: str):
    ones = np.ones(2, dtype=np.float32)
    rollouts = [Rollout(f"p{i}", np.array([1, 2]), 1, ones, ones, "stop", 0, "Hi.", TALK) for i in range(2)]
    gold = open_gold(GoldConfig(function=f"{__name__}:{name}"), cast("Any", None))
    with pytest.raises(RewardError, match=said):
        cast("RewardSource", gold).score(rollouts)
