"""Advantages, weights and prices of the group family, one number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def mean(x: Row) -> float:
    return sum(x) / len(x)


def group(scores: Row, eps: float = 1e-4) -> list[float]:
    """arXiv:2402.03300, section 4.1.2, with the sample deviation."""
    m = mean(scores)
    deviation = math.sqrt(sum((s - m) ** 2 for s in scores) / (len(scores) - 1))
    return [(s - m) / (deviation + eps) for s in scores]


def centred(scores: Row) -> list[float]:
    """arXiv:2503.20783, section 3.1."""
    return [s - mean(scores) for s in scores]


def leave_one_out(scores: Row) -> list[float]:
    """arXiv:2402.14740, the RLOO estimator."""
    return [s - mean([t for j, t in enumerate(scores) if j != i]) for i, s in enumerate(scores)]


def whitened(rows: Sequence[Row]) -> list[list[float]]:
    """Deviations from the mean over all numbers of all rows."""
    everything = [x for row in rows for x in row]
    m = mean(everything)
    deviation = math.sqrt(mean([(x - m) ** 2 for x in everything]))
    return [[(x - m) / deviation for x in row] for row in rows]


def to_come(score: float, kl: Row, coef: float) -> list[float]:
    """arXiv:2501.03262: the score less the price of all KL from each token on."""
    return [score - coef * sum(kl[t:]) for t in range(len(kl))]


def weights(lengths: Sequence[int], normaliser: str, limit: int) -> list[float]:
    """What each sampled token of each reply weighs in the loss of a minibatch."""
    n = len(lengths)
    if normaliser == "token":
        return [1 / sum(lengths)] * n
    if normaliser == "sequence":
        return [1 / n / length for length in lengths]
    return [1 / n / (limit if normaliser == "constant" else 1)] * n


def k3(logprob: float, reference: float) -> float:
    """arXiv:2402.03300, eq. 4."""
    return math.exp(reference - logprob) - (reference - logprob) - 1
