"""What replies are worth under a limit, and how λ follows the cost, by hand and against a dual that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thumbs.functional.constraint import RULES, ascend, lagrangian, safe_rlhf


def test_the_two_rules_by_hand():
    scores, costs = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0])
    assert lagrangian(scores, costs, 3.0).tolist() == [-0.5, -2.0]
    assert safe_rlhf(scores, costs, 3.0).tolist() == [-0.125, -0.5]
    assert set(RULES) == {"lagrangian", "safe_rlhf"}


@pytest.mark.parametrize(("now", "cost", "limit", "expected"), [(2.0, 0.6, 0.1, 2 * math.exp(0.1)), (2.0, 0.1, 0.1, 2)])
def test_a_step_of_the_ascent_by_hand(now: float, cost: float, limit: float, expected: float):
    assert ascend(now, cost, limit, rate=0.1, most=10.0) == pytest.approx(expected, rel=1e-12)


def test_lambda_rises_while_the_limit_is_broken_and_falls_while_it_is_kept():
    assert ascend(1.0, 0.3, 0.2, rate=0.1, most=9.0) > 1.0 > ascend(1.0, 0.1, 0.2, rate=0.1, most=9.0)


def test_the_maximum_is_reached_exactly_and_lambda_stays_above_zero():
    assert ascend(19.0, 1e9, 0.0, rate=1.0, most=20.0) == 20.0
    assert ascend(20.0, 1.0, 0.0, rate=1.0, most=20.0) == 20.0
    low = ascend(1.0, -1e9, 0.0, rate=1.0, most=20.0)
    assert 0 < low < 1e-3


def test_the_ascent_ends_at_the_multiplier_of_a_bandit_whose_best_answers_are_known():
    """The policy is the best one for each λ, in closed form, so what moves is λ alone."""
    scores, costs, beta, limit = np.linspace(0, 1.4, 8), np.array([0, 0, 0, 0.1, 0.2, 0.8, 1, 1]), 0.3, 0.1

    def cost(multiplier: float) -> float:
        lifted = np.exp((scores - multiplier * costs) / beta)
        return float((lifted * costs).sum() / lifted.sum())

    multiplier = 1.0
    for _ in range(5000):
        multiplier = ascend(multiplier, cost(multiplier), limit, rate=0.5, most=50.0)
    assert cost(multiplier) == pytest.approx(limit, abs=1e-6)
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > limit else (low, middle)
    assert multiplier == pytest.approx(low, rel=1e-4)


def test_dividing_bounds_what_a_cost_can_weigh():
    """Against a price of KL no λ gets below the cost of π_ref · exp(-cost / β), which the plain rule does."""
    scores, costs, beta = torch.linspace(0, 1.4, 8), torch.tensor([0, 0, 0, 0.1, 0.2, 0.8, 1, 1]), 0.3

    def cost(rule: str, multiplier: float) -> float:
        return float((torch.softmax(RULES[rule](scores, costs, multiplier) / beta, 0) * costs).sum())

    bound = float((torch.softmax(-costs / beta, 0) * costs).sum())
    assert cost("safe_rlhf", 1e6) == pytest.approx(bound, abs=1e-4)
    assert cost("lagrangian", 1e3) < 1e-6 < bound
