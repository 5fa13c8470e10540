"""Where scores come from: a trained model, a rule, an environment, or any Python callable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from thumbs.errors import RewardError
from thumbs.records import Rollout, Score


class RewardSource(Protocol):
    """One score a rollout."""

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in order, score units."""
        ...


def require_finite(name: str, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> None:
    """Raises RewardError, which names the rollout, for a score that is no finite number."""
    for number, (rollout, score) in enumerate(zip(rollouts, scores, strict=True)):
        if not np.isfinite(score.value):
            raise RewardError(f"{_place(name, number, rollout)} got {score.value}, which is no finite number")


def _place(name: str, number: int, rollout: Rollout) -> str:
    return f"reward {name}: rollout {number} (prompt {rollout.prompt_id}, reply {rollout.text[:80]!r})"


class NoAnswerError(RewardError):
    """A rule compares with the answer of a prompt that has none."""


def shown_scores(source: RewardSource, rollouts: Sequence[Rollout]) -> list[float]:
    """Scores to show beside replies from which nothing is learned; NaN where their prompts lack the answer."""
    try:
        return [score.value for score in source.score(rollouts)]
    except NoAnswerError:
        return [float("nan")] * len(rollouts)


class CallableReward:
    """A Python function of one rollout as reward: a number, or an array with one number a sampled token.

    Raises RewardError, which names the rollout, where the function fails or gives anything else, NaN too.
    """

    def __init__(self, function: Callable[[Rollout], Any], name: str = "function") -> None:
        self.function, self.name = function, name

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """function(rollout) of each."""
        return [self._score(number, rollout) for number, rollout in enumerate(rollouts)]

    def _score(self, number: int, rollout: Rollout) -> Score:
        where = _place(self.name, number, rollout)
        try:
            found = np.asarray(self.function(rollout), dtype=np.float64)
        except RewardError:
            raise
        except Exception as error:
            raise RewardError(f"{where} failed with {type(error).__name__}: {error}") from error
        sampled = int(rollout.mask.sum())
        if found.shape not in ((), (sampled,)):
            raise RewardError(
                f"{where} got an array of shape {found.shape}; give one number, or one for each of the {sampled} "
                "tokens that were sampled"
            )
        if not np.isfinite(found).all():
            raise RewardError(f"{where} got {found.tolist()}, which is no finite number")
        return Score(float(found.sum()), tokens=tuple(found.tolist()) if found.ndim else None)


class EnvironmentReward:
    """What the environment gave to each turn of a conversation."""

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Sums over the turns, each reward at the end of its turn; raises RewardError for a rollout without any."""
        return [self._score(rollout) for rollout in rollouts]

    def _score(self, rollout: Rollout) -> Score:
        if rollout.rewards is None:
            raise RewardError(
                f"prompt {rollout.prompt_id} was answered outside of an environment, which scores nothing"
            )
        sampled = rollout.rewards[rollout.mask > 0].astype(np.float64)
        return Score(float(sampled.sum()), tokens=tuple(sampled.tolist()))
