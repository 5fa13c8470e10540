"""The audit of a reward model by hand, and on judges whose calibration is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from thumbs.evaluation.reward_audit import audit


def test_accuracy_loss_and_ties_by_hand() -> None:
    found = audit([2.0, 0.0, 1.0, 3.0], [0.0, 1.0, 0.0, 3.0], [1.0, 0.0, 0.0, 0.5], [1, 2, 3, 4], [4, 3, 2, 1])
    assert (found["n"], found["ties"]) == (3, 1)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["accuracy_low"] < 2 / 3 < found["accuracy_high"]
    nulls = {name: null["value"] for name, null in found["nulls"].items()}
    assert nulls == pytest.approx({"longer": 1 / 3, "first": 1 / 3})
    log1pexp = [math.log1p(math.exp(-2)), math.log1p(math.exp(-1)), math.log1p(math.exp(1)), math.log(2)]
    assert found["loss"] == pytest.approx(sum(log1pexp) / 4)


def test_order_of_the_pairs_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50)).round(1)  # rounding makes equal scores
    preferred, lengths_a, lengths_b = rng.choice([0.0, 0.5, 1.0], 50), rng.integers(1, 9, 50), rng.integers(1, 9, 50)
    one = audit(a, b, preferred, lengths_a, lengths_b)
    two = audit(b, a, 1 - preferred, lengths_b, lengths_a)
    one_bins, two_bins = one.pop("bins"), two.pop("bins")
    one_nulls, two_nulls = one.pop("nulls"), two.pop("nulls")
    assert one_nulls["longer"] == pytest.approx(two_nulls["longer"])
    assert one_nulls["first"]["value"] == pytest.approx(1 - two_nulls["first"]["value"])
    assert one == pytest.approx(two)
    for x, y in zip(one_bins, two_bins, strict=True):
        assert x == pytest.approx(y)


def test_equal_scores_are_wrong_whoever_is_preferred() -> None:
    assert audit([1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1, 1], [1, 1])["accuracy"] == 0.0


def test_a_bradley_terry_judge_is_calibrated_and_an_overconfident_one_is_not() -> None:
    rng = np.random.default_rng(0)
    gap = rng.normal(0, 2, 20000)
    preferred = (rng.random(20000) < 1 / (1 + np.exp(-gap))).astype(float)
    zeros, ones = np.zeros(20000), np.ones(20000)
    honest = audit(gap, zeros, preferred, ones, ones)
    boastful = audit(3 * gap, zeros, preferred, ones, ones)
    assert honest["ece"] < 0.015
    assert boastful["ece"] > 0.1
    assert boastful["accuracy"] == honest["accuracy"]
    assert boastful["loss"] > honest["loss"]
    assert sum(b["n"] for b in honest["bins"]) == 20000
    for b in honest["bins"]:
        assert b["low"] <= b["predicted"] <= b["high"]
        assert b["observed"] == pytest.approx(b["predicted"], abs=0.05)


def test_calibration_table_by_hand() -> None:
    gap = math.log(3)  # confidence 0.75
    found = audit([gap, gap, 0, gap], [0, 0, gap, 0], [1, 1, 0, 0], [1] * 4, [1] * 4, bins=5)
    (only,) = found["bins"]
    assert (only["low"], only["high"], only["n"]) == pytest.approx((0.7, 0.8, 4))
    assert (only["predicted"], only["observed"]) == pytest.approx((0.75, 0.75))
    assert found["ece"] == pytest.approx(0.0, abs=1e-12)


def test_length_correlations() -> None:
    a, b, lengths_a, lengths_b = [1.0, 5.0, 2.0], [2.0, 1.0, 4.0], [10, 52, 19], [22, 9, 41]
    found = audit(a, b, [1.0, 1.0, 0.0], lengths_a, lengths_b)
    assert found["length_correlation"] == pytest.approx(stats.pearsonr(a + b, lengths_a + lengths_b).statistic)
    gaps, length_gaps = np.subtract(a, b), np.subtract(lengths_a, lengths_b)
    assert found["length_gap_correlation"] == pytest.approx(stats.pearsonr(gaps, length_gaps).statistic)
    assert audit(a, b, [1.0] * 3, [5] * 3, [5] * 3)["length_correlation"] == 0.0


def test_only_ties() -> None:
    found = audit([1.0], [0.0], [0.5], [3], [4])
    assert (found["n"], found["ties"], found["bins"], found["ece"]) == (0, 1, (), 0.0)
    assert math.isnan(found["accuracy"])
    assert (found["accuracy_low"], found["accuracy_high"]) == (0.0, 1.0)


def test_huge_gaps_stay_finite() -> None:
    found = audit([1e4, -1e4], [0.0, 0.0], [0.0, 0.0], [1, 2], [3, 5])
    assert found["loss"] == pytest.approx(5e3)
    assert math.isfinite(found["ece"])


def test_the_interval_is_of_prompts_and_not_of_pairs() -> None:
    right = np.repeat(np.random.default_rng(0).random(20) < 0.7, 10)  # all ten pairs of a prompt share their fate
    scores, prompts = np.where(right, 1.0, -1.0), np.repeat(np.arange(20), 10).tolist()
    zeros, ones = np.zeros(200), np.ones(200)
    wide = audit(scores, zeros, ones, ones, ones, prompts=prompts)
    narrow = audit(scores, zeros, ones, ones, ones)
    assert wide["accuracy"] == narrow["accuracy"]
    ratio = (wide["accuracy_high"] - wide["accuracy_low"]) / (narrow["accuracy_high"] - narrow["accuracy_low"])
    assert ratio == pytest.approx(10**0.5, rel=0.15)
