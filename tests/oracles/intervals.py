"""Wilson's interval as the paper defines it: the proportions that a score test does not reject."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist


def wilson(successes: float, n: int, confidence: float) -> tuple[float, float]:
    """Both bounds by bisection on |p̂ - p| = z √(p (1 - p) / n)."""
    z, share = NormalDist().inv_cdf(0.5 + confidence / 2), successes / n

    def rejected(p: float) -> bool:
        return abs(share - p) > z * sqrt(p * (1 - p) / n)

    return _boundary(rejected, 0.0, share), _boundary(rejected, 1.0, share)


def _boundary(rejected: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(100):
        middle = (outside + inside) / 2
        if rejected(middle):
            outside = middle
        else:
            inside = middle
    return inside
