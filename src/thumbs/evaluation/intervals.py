"""The interval of a proportion of independent values, and the KL of best-of-n."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927, JASA 22, p. 209); (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def best_of_n_kl(n: int) -> float:
    """log n - (n - 1) / n: KL of best-of-n from its base policy, nats; an upper bound (arXiv:2009.01325, G.3)."""
    return math.log(n) - (n - 1) / n
