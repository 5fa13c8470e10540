"""The KL of best-of-n against the exact KL on a discrete distribution of many outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from thumbs.evaluation.intervals import best_of_n_kl


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_best_of_n_kl_is_the_limit_of_many_equally_likely_outcomes(n: int) -> None:
    outcomes = 200_000
    edges = np.arange(outcomes + 1) / outcomes
    best = np.diff(edges**n)  # P(the best of n draws is outcome i)
    exact = (best * np.log(best * outcomes)).sum()
    assert best_of_n_kl(n) == pytest.approx(exact, abs=1e-3)
