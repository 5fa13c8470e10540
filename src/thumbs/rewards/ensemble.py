"""Several reward models that disagree where they know little: mean less deviation, or the worst of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import Engine, Handle
from thumbs.records import Example, Rollout, Score
from thumbs.rewards.model import member_scores, read_rollout

Combine = Literal["mean", "mean_minus_std", "worst"]


class RewardEnsemble:
    """Scores of M members, each normalised by its own mean and deviation, as one: `combine` says how.

    mean; mean_minus_std: mean - std_coef · std over the members (the deviation of all M, not of a sample); worst: the
    lowest. Coste et al. 2023, arXiv:2310.02743, section 3; their uncertainty-weighted objective takes the variance
    where we take the deviation. What all members get wrong alike it does not see (Eisenstein et al. 2023,
    arXiv:2312.09244).

    handles: one model per member, or one whose head gives M numbers; means, stds [M]. scale multiplies the result: 1
    for normalised scores, a deviation to have score units again.
    """

    def __init__(
        self,
        engine: Engine,
        handles: Sequence[Handle],
        means: Sequence[float],
        stds: Sequence[float],
        combine: Combine,
        std_coef: float = 1.0,
        *,
        scale: float = 1.0,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.engine, self.handles, self.tokenizer = engine, handles, tokenizer
        self.means, self.stds, self.scale = np.asarray(means), np.asarray(stds), scale
        self.combine, self.std_coef = combine, std_coef

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores; parts: `raw`, the members' mean before normalisation, `mean` and `std` of the normalised ones."""
        raw = member_scores(self.engine, self.handles, [read_rollout(self.tokenizer, r) for r in rollouts])
        each = self.scale * (raw - self.means) / self.stds
        mean, std = each.mean(axis=1), each.std(axis=1)
        values = {"mean": mean, "mean_minus_std": mean - self.std_coef * std, "worst": each.min(axis=1)}[self.combine]
        parts = zip(raw.mean(axis=1).tolist(), mean.tolist(), std.tolist(), strict=True)
        return [
            Score(value, {"raw": r, "mean": m, "std": s})
            for value, (r, m, s) in zip(values.tolist(), parts, strict=True)
        ]


def member_paths(first: Path, members: int) -> list[Path]:
    """Where the models of an ensemble are kept: `model`, `model-2`, `model-3` …"""
    return [first if i == 0 else first.with_name(f"{first.name}-{i + 1}") for i in range(members)]


def member_values(engine: Engine, handles: Sequence[Handle], data: Sequence[Example]) -> list[np.ndarray]:
    """Values at every token of each datum, means over the members, float32 [T]."""
    found = [
        [output.values.reshape(len(datum), -1) for datum, output in zip(data, engine.forward(h, data), strict=True)]
        for h in handles
    ]
    return [np.concatenate(own, axis=1).mean(axis=1) for own in zip(*found, strict=True)]
