"""Wilson's interval against its definition and scipy."""

from __future__ import annotations

import pytest
from scipy import stats

import oracles.intervals
from thumbs.evaluation.intervals import wilson


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
