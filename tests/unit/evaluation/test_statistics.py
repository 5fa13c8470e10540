"""Intervals by simulation and scipy; best-of-n against all subsets; the model of length against an optimiser."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import optimize, stats

from thumbs.evaluation import statistics
from thumbs.evaluation.statistics import Measured
from thumbs.functional.bootstrap import student


def coverage(prompts: int, pairs: int, unevenness: float, runs: int = 1000) -> float:
    """How often the interval of an accuracy holds the true one; unevenness: how much prompts differ in difficulty."""
    rng = np.random.default_rng(0)

    def draw(n: int) -> np.ndarray:
        chance = 1 / (1 + np.exp(-rng.normal(1.4, unevenness, (n, 1))))
        return rng.random((n, pairs)) < chance

    truth, covered = draw(200_000).mean(), 0
    for seed in range(runs):
        right = draw(prompts)
        found = statistics.share(right.sum(axis=1).astype(float), np.full(prompts, float(pairs)), seed)
        covered += found.low <= truth <= found.high
    return covered / runs


@pytest.mark.parametrize("unevenness", [0.0, 0.7, 1.4])
def test_nominal_95_percent_covers_93_to_97_with_ten_pairs_per_prompt(unevenness: float):
    assert 0.93 <= coverage(30, 10, unevenness) <= 0.97


def test_taking_the_pairs_of_a_prompt_for_independent_would_not_cover():
    """The fault that the bootstrap over prompts is there against."""
    rng, covered, truth = np.random.default_rng(0), 0, 0.5
    for seed in range(300):
        right = rng.random((50, 10)) < rng.beta(0.5, 0.5, (50, 1))
        values = right.ravel().astype(float)
        found = statistics.clustered(values, range(500), seed)
        covered += found.low <= truth <= found.high
    assert covered / 300 < 0.8


def test_paired_differences_cover_too():
    rng, covered = np.random.default_rng(0), 0
    for seed in range(1000):
        prompt = rng.normal(0, 3, (30, 1))
        left, right = (prompt + shift + rng.normal(0, 1, (30, 4)) for shift in (0.3, 0.0))
        found = statistics.difference(left, right, seed)
        assert found.high - found.low < 1.2  # prompts differ by 3, but both sides share them
        covered += found.low <= 0.3 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


@pytest.mark.parametrize("freedom", [1, 2, 3, 5, 10, 49, 500])
def test_the_quantile_of_student(freedom: int):
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.012)


def test_the_interval_is_nearly_that_of_scipy_where_prompts_are_many():
    values = np.random.default_rng(0).exponential(1.0, 800)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=3).confidence_interval
    found = statistics.mean(values, seed=0)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.008)


def test_all_right_on_ten_prompts_is_not_certainty():
    found = statistics.share(np.full(10, 5.0), np.full(10, 5.0), seed=0)
    expected = stats.binomtest(10, 10).proportion_ci(0.95, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((1.0, expected.low, 1.0))
    assert statistics.share(np.array([3.0]), np.array([4.0]), seed=0).low < 0.2
    assert np.isnan(statistics.share(np.zeros(2), np.zeros(2), seed=0).value)


@pytest.mark.parametrize(
    ("prompts", "verdict"), [(1, "not better"), (2, "not better"), (5, "not better"), (6, "better")]
)
def test_a_few_prompts_that_agree_decide_nothing(prompts: int, verdict: str):
    """A sign test's probability, two-sided: 2 · ½⁵ = 0.06 for five, 0.03 for six."""
    assert (stats.binomtest(prompts, prompts).pvalue < 0.05) == (verdict == "better")
    assert statistics.difference(np.ones(prompts), np.zeros(prompts), seed=0).verdict == verdict


def test_ties_alone_are_no_certainty_of_one_half():
    found = statistics.clustered([0.5] * 5, range(5), seed=0)
    expected = stats.norm.ppf(0.975) ** 2
    half = np.sqrt(expected / 4 / (5 + expected))  # Wilson's interval at one half, solved by hand
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))


def test_a_ratio_weighs_prompts_by_what_they_have():
    found = statistics.ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]), seed=0)
    assert found.value == 10 / 4
    assert (found.low, found.high) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "better"), (-0.1, 0.2, "not better"), (-0.2, -0.1, "worse")]
)
def test_nothing_is_better_whose_interval_does_not_say_so(low: float, high: float, verdict: str):
    assert Measured(0.1, low, high).verdict == verdict


def test_wins_over_all_pairs_of_replies():
    left, right = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 1.0]])
    assert statistics.wins(left, right).tolist() == [(0.5 + 1 + 0 + 1 + 1 + 0) / 6, (0.5 + 0.5 + 0) / 3]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_best_of_n_is_the_mean_over_all_subsets(n: int):
    rng = np.random.default_rng(0)
    proxy, values = rng.normal(size=(4, 5)), rng.normal(size=(4, 5))
    expected = [
        np.mean([values[p, max(chosen, key=lambda i: proxy[p, i])] for chosen in itertools.combinations(range(5), n)])
        for p in range(4)
    ]
    assert statistics.best_of_n(proxy, values, n) == pytest.approx(expected)


def test_best_of_n_by_a_proxy_that_knows_nothing_is_the_mean():
    values = np.array([[1.0, 2.0, 6.0]])
    assert statistics.best_of_n(np.zeros((1, 3)), values, 2) == pytest.approx([3.0])


def test_the_model_of_length_is_the_one_that_an_optimiser_finds():
    rng = np.random.default_rng(0)
    prompts, gap = np.repeat(np.arange(60), 4), rng.normal(8, 20, 240)
    won = (rng.random(240) < 1 / (1 + np.exp(-(0.3 + 1.5 * np.tanh(gap / gap.std()))))).astype(float)
    x = np.tanh(gap / gap.std())

    def loss(coefficients: np.ndarray) -> float:
        logits = coefficients[0] + coefficients[1] * x
        return float((np.logaddexp(0, logits) - won * logits).sum() + statistics.RIDGE / 2 * (coefficients**2).sum())

    theta = optimize.minimize(loss, np.zeros(2)).x[0]
    found = statistics.length_controlled(won, gap, prompts, seed=0, draws=200)
    assert found.value == pytest.approx(1 / (1 + np.exp(-theta)), abs=1e-5)
    assert found.low < found.value < found.high
    assert won.mean() - found.value > 0.03  # some of the wins were the length's


def test_a_policy_that_wins_by_length_alone_wins_half_of_the_time_at_equal_length():
    rng, covered = np.random.default_rng(1), 0
    for seed in range(100):
        gap = rng.normal(10, 20, (40, 4))
        won = rng.random((40, 4)) < 1 / (1 + np.exp(-2 * np.tanh(gap / 20)))
        prompts = np.repeat(np.arange(40), 4)
        found = statistics.length_controlled(won.ravel().astype(float), gap.ravel(), prompts, seed, draws=200)
        covered += found.low <= 0.5 <= found.high
    assert covered >= 90


def test_a_side_that_always_wins_has_a_finite_rate():
    found = statistics.length_controlled(np.ones(20), np.arange(20.0), np.arange(20), seed=0, draws=50)
    assert 0.9 < found.value <= 1.0


def test_consistency_of_two_orders_by_hand():
    first, second = np.array([0.9, 0.8, 0.5, 0.2]), np.array([0.6, 0.4, 0.5, 0.5])
    assert statistics.agreement_of_orders(first, second, ["p", "q", "r", "s"], 0).value == 0.5
