"""Comparing two policies on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from thumbs.evaluation.intervals import bootstrap_mean


@dataclass(frozen=True)
class WinRate:
    """Share of prompts on which the first policy is better, ties one half, with its 95 % interval; n prompts."""

    rate: float
    low: float
    high: float
    n: int


def win_rate(scores_a: Sequence[float] | np.ndarray, scores_b: Sequence[float] | np.ndarray, seed: int) -> WinRate:
    """WinRate of a over b, prompt by prompt; the interval is a bootstrap over prompts."""
    difference = np.asarray(scores_a) - np.asarray(scores_b)
    wins = (difference > 0) + 0.5 * (difference == 0)
    return WinRate(float(wins.mean()), *bootstrap_mean(wins, seed), len(wins))


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: KL of best-of-n from its base policy, nats; an upper bound (arXiv:2009.01325, G.3)."""
    return math.log(n) - (n - 1) / n
