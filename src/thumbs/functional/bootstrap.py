"""The one bootstrap of the package's evaluations: what is drawn anew is the prompt."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

DRAWS = 2000
"""Bootstrap draws of an interval."""
AT_ONCE = 4_000_000
"""Weights of prompts that are held at the same time."""


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], prompts: int, seed: int, draws: int = DRAWS
) -> tuple[float, float]:
    """95 % interval of a statistic of prompts; `statistic` gets weights [draws, P], how often each prompt was drawn.

    The percentile interval is too narrow by √((P - 1)/P) and by the normal's quantile in place of Student's; both are
    made good by its quantiles (the expanded percentile interval: Hesterberg 2015, The American Statistician 69, p.
    371). (NaN, NaN) for no prompts; one prompt bounds nothing, so its interval is infinite.
    """
    low, high = bootstraps(lambda weights: statistic(weights)[:, None], prompts, seed, draws)[:, 0]
    return float(low), float(high)


def bootstraps(
    statistics: Callable[[np.ndarray], np.ndarray], prompts: int, seed: int, draws: int = DRAWS
) -> np.ndarray:
    """The intervals of K statistics of the same draws: `statistics` gives [draws, K]; returns low and high, [2, K].

    It is [2, 1], one for all of them, if there are fewer than two prompts. Draws in which a statistic has no finite
    value say nothing about it.
    """
    if prompts < 2:
        bound = math.nan if prompts == 0 else math.inf
        return np.array([[-bound], [bound]])
    rng, at_once = np.random.default_rng(seed), max(1, AT_ONCE // prompts)
    sizes = [min(at_once, draws - begin) for begin in range(0, draws, at_once)]
    equal = np.full(prompts, 1 / prompts)
    parts = [statistics(rng.multinomial(prompts, equal, size=size).astype(np.float64)) for size in sizes]
    tail = NormalDist().cdf(-math.sqrt(prompts / (prompts - 1)) * student(prompts - 1))
    columns = [column[np.isfinite(column)] for column in np.concatenate(parts).T]
    return np.array([np.quantile(c, [tail, 1 - tail]) if len(c) else [math.nan] * 2 for c in columns]).T


def student(freedom: int) -> float:
    """97.5 % quantile of Student's t, by the expansion of Cornish and Fisher; from 3 degrees on to 1 %."""
    z = NormalDist().inv_cdf(0.975)
    if freedom < 3:
        return (12.706, 4.303)[freedom - 1]
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))
