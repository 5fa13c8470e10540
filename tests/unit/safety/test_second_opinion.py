"""A fall of the second opinion, against scipy's paired t statistic and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from thumbs.safety.second_opinion import SURE, is_certain_fall, is_over_optimised


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, 0.3, 0.5, -0.5])
def test_a_certain_fall_is_three_standard_errors_of_the_paired_difference(shift: float):
    random = np.random.default_rng(0)
    before = random.normal(size=128)
    now = before - shift + 0.8 * random.normal(size=128)
    assert is_certain_fall(before, now) == (ttest_rel(before, now).statistic > SURE)


def test_pairing_finds_what_the_means_alone_would_not():
    random = np.random.default_rng(1)
    before = 10 * random.normal(size=64)
    assert is_certain_fall(before, before - 0.1 + 0.01 * random.normal(size=64))


def test_only_what_is_lost_to_the_start_is_an_alarm():
    start, noise = np.zeros(100), np.random.default_rng(2).normal(size=100) / 10
    best = start + 1.0
    assert not is_over_optimised(start, best, best - 0.5 + noise)  # half is lost, and certainly
    assert is_over_optimised(start, best, start - 0.2 + noise)
    assert not is_over_optimised(start, start + 0.001 * noise, start - 0.01 + noise)  # below the start by chance
