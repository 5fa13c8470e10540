"""Win rates by hand; the KL of best-of-n against the exact KL on a discrete distribution of many outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from thumbs.evaluation.intervals import best_of_n_kl, win_rate


def test_ties_count_one_half() -> None:
    found = win_rate([1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 5.0], seed=0)
    assert found["rate"] == (1 + 0.5 + 1 + 0) / 4
    assert found["n"] == 4
    assert found["low"] < found["rate"] < found["high"]


def test_win_rate_is_of_the_first_and_mirrors() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 200), rng.normal(0, 1, 200)
    ours, theirs = win_rate(a, b, seed=0), win_rate(b, a, seed=0)
    assert ours["rate"] > 0.5
    mirrored = (1 - theirs["rate"], 1 - theirs["high"], 1 - theirs["low"])
    assert (ours["rate"], ours["low"], ours["high"]) == pytest.approx(mirrored)
    half = 1.96 * (ours["rate"] * (1 - ours["rate"]) / 200) ** 0.5
    assert (ours["low"], ours["high"]) == pytest.approx((ours["rate"] - half, ours["rate"] + half), abs=0.015)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_kl_is_the_limit_of_many_equally_likely_outcomes(n: int) -> None:
    outcomes = 200_000
    edges = np.arange(outcomes + 1) / outcomes
    best = np.diff(edges**n)  # P(the best of n draws is outcome i)
    exact = (best * np.log(best * outcomes)).sum()
    assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-3)
