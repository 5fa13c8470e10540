"""Intervals against their definition, scipy, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import oracles.intervals
from thumbs.evaluation.intervals import bootstrap_mean, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (7, 10), (10, 10), (160, 200), (12.5, 30)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_inverts_the_score_test(successes: float, n: int, confidence: float) -> None:
    expected = oracles.intervals.wilson(successes, n, confidence)
    assert wilson(successes, n, confidence) == pytest.approx(expected, abs=1e-9)


def test_wilson_agrees_with_scipy() -> None:
    expected = stats.binomtest(83, 100).proportion_ci(0.95, method="wilson")
    assert wilson(83, 100) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_wilson_of_nothing_is_everything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_bootstrap_is_near_the_normal_interval_and_seeded() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    low, high = bootstrap_mean(values, seed=1, n=5000)
    half = 1.959964 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    assert bootstrap_mean(values, seed=1, n=5000) == (low, high)
    assert bootstrap_mean(values, seed=2, n=5000) != (low, high)


def test_bootstrap_agrees_with_scipy_on_skewed_values() -> None:
    values = np.random.default_rng(0).exponential(1.0, 60)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=3).confidence_interval
    assert bootstrap_mean(values, seed=0, n=9999) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_bootstrap_of_a_constant_is_a_point() -> None:
    assert bootstrap_mean([0.5, 0.5, 0.5], seed=0) == (0.5, 0.5)
