"""Clopper and Pearson's bound, against scipy, by definition, and the numbers of the tables."""

from __future__ import annotations

import math

import pytest
from scipy.stats import beta

from thumbs.safety.gate import interval, needed, share, upper_bound


@pytest.mark.parametrize(
    ("k", "n"), [(0, 1), (0, 149), (1, 10), (3, 150), (75, 150), (149, 150), (2, 2000), (900, 2000)]
)
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_the_bound_is_the_quantile_of_a_beta_distribution(k: int, n: int, confidence: float):
    assert upper_bound(k, n, confidence) == pytest.approx(beta.ppf(confidence, k + 1, n - k), rel=1e-9)


def test_at_the_bound_the_tail_is_what_is_left_of_the_confidence():
    p = upper_bound(2, 30, 0.95)
    assert sum(math.comb(30, i) * p**i * (1 - p) ** (30 - i) for i in range(3)) == pytest.approx(0.05, rel=1e-9)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0), (0, 0, 0.0, 1.0)],
)
def test_two_sided_intervals_of_the_table(k: int, n: int, low: float, high: float):
    assert interval(k, n) == pytest.approx((low, high), abs=5e-5)


def test_the_number_of_prompts_that_it_takes():
    assert needed(0.02, 0.95) == 149
    assert [upper_bound(0, n, 0.95) <= 0.02 for n in (148, 149)] == [False, True]
    assert (needed(0.01, 0.95), needed(0.05, 0.95), needed(0.02, 0.99)) == (299, 59, 228)
    for unsafe in (1, 2, 7):
        n = needed(0.02, 0.95, unsafe)
        assert beta.ppf(0.95, unsafe + 1, n - unsafe) <= 0.02 < beta.ppf(0.95, unsafe + 1, n - 1 - unsafe)


def test_a_share_of_nothing_is_no_number():
    assert share(0, 0) == {"n": 0, "hits": 0, "rate": None, "low": 0.0, "high": 1.0}
    assert upper_bound(0, 0, 0.95) == upper_bound(5, 5, 0.95) == 1.0
