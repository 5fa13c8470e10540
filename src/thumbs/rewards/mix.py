"""A score as the weighted sum of several sources'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thumbs.config.reward_parts import COST
from thumbs.errors import RewardError
from thumbs.records import Rollout, Score
from thumbs.rewards.base import CallableReward, RewardSource, require_finite
from thumbs.rewards.returned import reply_place


@dataclass(frozen=True)
class Part:
    """A source, its name in the metrics, and its weight."""

    name: str
    source: RewardSource
    weight: float = 1.0


class Mix:
    """Σ weight · score over its parts, whose own scores are kept by name."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in order; raises RewardError, which names rollout and part, if one is not a finite number."""
        return self.score_late(rollouts, {})

    def score_early(self, rollouts: Sequence[Rollout]) -> dict[str, list[Score]]:
        """Scores of the parts that are functions, which need no engine and hence no turn at it."""
        return {p.name: p.source.score(rollouts) for p in self.parts if isinstance(p.source, CallableReward)}

    def score_late(self, rollouts: Sequence[Rollout], early: Mapping[str, list[Score]]) -> list[Score]:
        """What `score` gives, where some parts were scored before."""
        found = [early.get(part.name) or part.source.score(rollouts) for part in self.parts]
        for part, scores in zip(self.parts, found, strict=True):
            require_finite(part.name, rollouts, scores)
        rows = enumerate(zip(rollouts, *found, strict=True))
        mixed = [self._sum(number, rollout, scores) for number, (rollout, *scores) in rows]
        require_finite("mix", rollouts, mixed)
        return mixed

    def _sum(self, number: int, rollout: Rollout, scores: Sequence[Score]) -> Score:
        """A part that has nothing to say of a reply adds nothing, as in TRL."""
        tokens = np.zeros(int(rollout.mask.sum()))
        given = [(part, score) for part, score in zip(self.parts, scores, strict=True) if score.counts]
        if not given:
            raise RewardError(f"{reply_place('mix', number, rollout)} got None from every part, so it has no score")
        for part, score in given:
            if score.tokens is not None:
                tokens += part.weight * np.array(score.tokens)
            else:
                tokens[-1] += part.weight * score.value
        spread = any(score.tokens is not None for score in scores)
        value = sum(part.weight * score.value for part, score in given)
        named = {part.name: score.value for part, score in given}
        return Score(value, named, tuple(tokens.tolist()) if spread else None)


def with_cost(reward: RewardSource, cost: RewardSource) -> Mix:
    """The same scores, next to which the part COST says what a reply costs."""
    parts = reward.parts if isinstance(reward, Mix) else [Part("reward", reward)]
    return Mix([*parts, Part(COST, cost, 0.0)])


def start_scoring(reward: RewardSource, rollouts: Sequence[Rollout]) -> Callable[[], list[Score]]:
    """Calls the functions of a reward, in the thread of the caller; what it returns gives the scores.

    That is to be called where the engine is used, which models and judges need.
    """
    if isinstance(reward, Mix):
        early = reward.score_early(rollouts)
        return lambda: reward.score_late(rollouts, early)
    if isinstance(reward, CallableReward):
        scores = reward.score(rollouts)
        return lambda: scores
    return lambda: reward.score(rollouts)
