"""A number and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thumbs.evaluation.intervals import wilson


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; n is how many cases it rests on. None if the votes cannot tell."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def share(hits: float, n: int) -> Estimate:
    """hits / n with Wilson's interval (Wilson 1927, JASA 22, p. 209); nothing is known of none."""
    if n == 0:
        return Estimate(None, None, None, 0)
    return Estimate(hits / n, *wilson(hits, n), n)


def bootstrapped(value: float, draws: np.ndarray, n: int) -> Estimate:
    """`value` with the percentile interval of its resamples [B], NaN if a resample has no value (Efron & Tibshirani
    1993, section 13.3). Without an interval where more than a tenth has none, or n < 2; unknown where `value` is NaN.
    """
    if np.isnan(value):
        return Estimate(None, None, None, n)
    known = draws[~np.isnan(draws)]
    if n < 2 or len(known) < 0.9 * len(draws):
        return Estimate(float(value), None, None, n)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high), n)
