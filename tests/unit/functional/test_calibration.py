"""Platt's scaling against a general optimiser, AUROC against every pair, calibration of labels drawn as predicted."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import mannwhitneyu

from thumbs.functional.calibration import auroc, brier, ece_by_chance, over_prompts, platt, reliability

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.normal(size=300) * 7 + 40
LABELS = (RANDOM.random(300) < expit((SCORES - 42) / 3)).astype(float)


def test_platt_is_the_likeliest_line_for_his_targets():
    positive = LABELS.sum()
    target = np.where(LABELS == 1, (positive + 1) / (positive + 2), 1 / (len(LABELS) - positive + 2))

    def loss(w: np.ndarray) -> float:
        z = w[0] * (SCORES - 40) + w[1]
        return float((np.logaddexp(0, -z) * target + np.logaddexp(0, z) * (1 - target)).sum())

    best = minimize(loss, [0.0, 0.0]).x
    scale, shift = platt(SCORES, LABELS)
    assert scale == pytest.approx(best[0], rel=1e-3)
    assert shift + 40 * scale == pytest.approx(best[1], abs=1e-3)


def test_scores_that_part_the_labels_give_finite_numbers():
    scale, shift = platt(np.array([-1.0, -2.0, 3.0, 4.0]), np.array([0.0, 0, 1, 1]))
    assert 0 < scale < 100
    assert np.isfinite(shift)


def test_auroc_is_the_share_of_pairs_in_order_ties_counting_half():
    scores = np.round(RANDOM.normal(size=40), 1)
    labels = (RANDOM.random(40) < 0.4).astype(float)
    pairs = list(itertools.product(scores[labels == 1], scores[labels == 0]))
    slow = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auroc(scores, labels, np.ones(40)) == pytest.approx(slow)
    statistic = mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
    assert auroc(scores, labels, np.ones(40)) == pytest.approx(statistic / len(pairs))
    twice = RANDOM.integers(0, 3, 40)
    repeated = auroc(np.repeat(scores, twice), np.repeat(labels, twice), np.ones(twice.sum()))
    assert auroc(scores, labels, twice.astype(float)) == pytest.approx(repeated)
    assert np.isnan(auroc(scores, np.ones(40), np.ones(40)))


def test_reliability_and_brier_by_hand():
    p, y, w = np.array([0.1, 0.15, 0.9, 1.0]), np.array([0.0, 1, 1, 1]), np.ones(4)
    found = reliability(p, y, w)
    assert [(b["low"], b["n"]) for b in found["bins"]] == [(0.1, 2), (0.9, 2)]
    assert found["bins"][0]["predicted"] == pytest.approx(0.125)
    assert found["bins"][0]["observed"] == 0.5
    assert found["ece"] == pytest.approx((2 * 0.375 + 2 * 0.05) / 4)
    assert brier(p, y, w) == pytest.approx((0.01 + 0.85**2 + 0.01 + 0) / 4)


def test_chance_explains_the_error_of_right_probabilities_and_not_of_wrong_ones():
    p = RANDOM.random(400)
    mean, most = ece_by_chance(p, 0)
    right = [reliability(p, (RANDOM.random(400) < p).astype(float), np.ones(400))["ece"] for _ in range(200)]
    assert mean == pytest.approx(np.mean(right), rel=0.1)
    assert 0.85 < np.mean(np.array(right) <= most) <= 1.0
    assert reliability(p, (RANDOM.random(400) < p**3).astype(float), np.ones(400))["ece"] > most


def test_the_bootstrap_draws_whole_prompts():
    """With ten equal replies a prompt the interval is that of the prompts, not of the replies."""
    of_prompts = RANDOM.normal(size=50)
    values, prompts = np.repeat(of_prompts, 10), np.repeat(np.arange(50), 10)
    found = over_prompts(lambda w: {"mean": float(w @ values / w.sum())}, prompts, 0, 2000)
    width = found["mean_high"] - found["mean_low"]
    assert width == pytest.approx(2 * 1.96 * of_prompts.std() / np.sqrt(50), rel=0.1)
    assert found["mean"] == pytest.approx(of_prompts.mean())
