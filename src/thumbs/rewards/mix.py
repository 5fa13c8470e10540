"""A score as the weighted sum of several sources'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thumbs.records import Rollout, Score
from thumbs.rewards.base import RewardSource, require_finite


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
        """Scores in order; raises RewardError, which names rollout and part, where one is no finite number."""
        found = [part.source.score(rollouts) for part in self.parts]
        for part, scores in zip(self.parts, found, strict=True):
            require_finite(part.name, rollouts, scores)
        return [self._sum(rollout, scores) for rollout, *scores in zip(rollouts, *found, strict=True)]

    def _sum(self, rollout: Rollout, scores: Sequence[Score]) -> Score:
        tokens = np.zeros(int(rollout.mask.sum()))
        for part, score in zip(self.parts, scores, strict=True):
            if score.tokens is not None:
                tokens += part.weight * np.array(score.tokens)
            else:
                tokens[-1] += part.weight * score.value
        spread = any(score.tokens is not None for score in scores)
        value = sum(part.weight * score.value for part, score in zip(self.parts, scores, strict=True))
        named = {part.name: score.value for part, score in zip(self.parts, scores, strict=True)}
        return Score(value, named, tuple(tokens.tolist()) if spread else None)
