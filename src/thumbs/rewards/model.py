"""A trained reward model as a source of scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thumbs.engine.base import Engine, Handle
from thumbs.records import Datum, Rollout, Score


class RewardModel:
    """(value at the last token - mean) / std, with the mean and deviation over the SFT model's replies.

    Stiennon et al. 2020 (arXiv:2009.01325, section 3.4) shift scores so that reference replies have mean 0; the
    division makes the KL coefficient mean the same for every reward model.
    """

    def __init__(self, engine: Engine, handle: Handle, mean: float = 0.0, std: float = 1.0) -> None:
        self.engine, self.handle, self.mean, self.std = engine, handle, mean, std

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Normalised scores; the raw one is kept as the part `raw`."""
        raw = raw_scores(self.engine, self.handle, [rollout.tokens for rollout in rollouts])
        return [Score((value - self.mean) / self.std, {"raw": value}) for value in raw.tolist()]


def raw_scores(engine: Engine, handle: Handle, sequences: Sequence[np.ndarray]) -> np.ndarray:
    """Scalar-head values at the last token of each sequence, float64 [B]."""
    data = [Datum.whole_sequence(tokens) for tokens in sequences]
    return np.array([float(output.values[-1]) for output in engine.forward(handle, data)])
