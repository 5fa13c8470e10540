"""Where scores come from: a trained model, or any Python callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from thumbs.records import Rollout, Score


class RewardSource(Protocol):
    """One score a rollout."""

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in order, score units."""
        ...


class CallableReward:
    """A Python function of one rollout as reward."""

    def __init__(self, function: Callable[[Rollout], float]) -> None:
        self.function = function

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """function(rollout) of each."""
        return [Score(float(self.function(rollout))) for rollout in rollouts]
