"""Losses of rankings, ratings and steps against slow loops and numbers by hand."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from thumbs.functional.reward_losses import (
    at_each_place,
    best_of_k,
    binary,
    bradley_terry,
    ordinal,
    pair_loss,
    plackett_luce,
    regression,
    share_in_order,
)

INF = math.inf


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def chosen_in_turn(scores: list[float], order: tuple[int, ...], ranked: int) -> float:
    """-log of the probability that the first `ranked` are chosen in this order, each from the rest."""
    nll = 0.0
    for place in range(ranked):
        rest = sum(math.exp(scores[i]) for i in order[place:])
        nll -= math.log(math.exp(scores[order[place]]) / rest)
    return nll


def slow_plackett_luce(scores: list[float], ranks: list[float]) -> float:
    """The mean over all permutations that the ranks allow, those without a rank at the end in any order."""
    ranked = sum(rank < INF for rank in ranks)
    orders = [
        order
        for order in itertools.permutations(range(len(ranks)))
        if all(ranks[a] <= ranks[b] for a, b in itertools.pairwise(order))
    ]
    return sum(chosen_in_turn(scores, order, ranked) for order in orders) / len(orders)


RANKINGS = [
    [1, 2],
    [2, 1, 3],
    [1, 1],
    [1, 1, 2],
    [2, 1, 1, 3],
    [1, 2, 2, 2, 3],
    [3, 3, 1, 1, 2],
    [5, 2, 9],
    [1, INF, INF],
    [2, INF, 1, 1, INF],
    [1, 1, 1],
]


@pytest.mark.parametrize("ranks", RANKINGS)
def test_plackett_luce_is_the_mean_over_the_permutations(ranks: list[float]) -> None:
    scores = np.random.default_rng(len(ranks)).normal(0, 1.5, len(ranks))
    found = plackett_luce(torch.tensor(scores)[:, None], ranks)
    assert found.item() == pytest.approx(slow_plackett_luce(scores.tolist(), ranks), rel=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_ties_too() -> None:
    """By hand: P(a first) = 2 / (2 + 1) where the scores are log 2 and 0."""
    scores = tensor(math.log(2), 0)
    assert plackett_luce(scores[:, None], [1, 2]).item() == pytest.approx(math.log(1.5))
    assert plackett_luce(scores[:, None], [2, 1]).item() == pytest.approx(math.log(3))
    tie, _ = pair_loss(bradley_terry, scores[:1], scores[1:], tensor(0.5), tensor(0), tensor(1), 0.0)
    assert plackett_luce(scores[:, None], [1, 1]).item() == pytest.approx(tie.item())


def test_probabilities_of_all_orders_add_up_to_one() -> None:
    scores = tensor(0.3, -1, 2, 0.5)[:, None]
    total = sum(math.exp(-plackett_luce(scores, order).item()) for order in itertools.permutations([1, 2, 3, 4]))
    assert total == pytest.approx(1)
    best = sum(math.exp(-best_of_k(scores, [1 if i == k else 2 for i in range(4)]).item()) for k in range(4))
    assert best == pytest.approx(1)


def test_heads_are_losses_of_their_own() -> None:
    both = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for loss in (plackett_luce, best_of_k):
        apart = [loss(both[:, h : h + 1], [2, 1, 1, 3]).item() for h in (0, 1)]
        assert loss(both, [2, 1, 1, 3]).tolist() == pytest.approx(apart)


def test_best_of_k_by_hand() -> None:
    scores = tensor(math.log(3), 0, 0, math.log(5))[:, None]  # shares 3, 1, 1, 5 of 10
    assert best_of_k(scores, [1, 2, 2, 2]).item() == pytest.approx(-math.log(0.3))
    assert best_of_k(scores, [INF, INF, INF, 1]).item() == pytest.approx(math.log(2))
    tied = -(math.log(0.3) + math.log(0.5)) / 2
    assert best_of_k(scores, [1, 3, 2, 1]).item() == pytest.approx(tied)


def test_share_in_order_by_hand() -> None:
    scores = tensor(3, 1, 1, 0)[:, None]
    assert share_in_order(scores, [1, 2, 3, 4]) == 5 / 6  # the equal scores are wrong
    assert share_in_order(scores, [4, 3, 2, 1]) == 0.0
    assert share_in_order(scores, [1, 1, 2, 2]) == 3 / 4
    assert share_in_order(scores, [1, INF, INF, INF]) == 1.0
    assert share_in_order(scores, [1, 1, 1, 1]) is None


def test_regression_by_hand() -> None:
    values, labels, weights = tensor(1, 0, -3), tensor(0.5, 0, 1), tensor(1, 5, 0.5)
    loss, metrics = regression(values, labels, weights)
    assert loss.item() == pytest.approx(0.125 + 0 + 0.5 * 8)
    assert metrics["error"].item() == pytest.approx((0.5 + 0.5 * 4) / 6.5)
    huber, _ = regression(values, labels, weights, huber_delta=1.0)
    assert huber.item() == pytest.approx(0.125 + 0.5 * (4 - 0.5))


def test_ordinal_is_the_difference_of_two_logistic_distributions() -> None:
    thresholds, rng = [-1.5, 0.2, 2.0], np.random.default_rng(0)
    values, levels, weights = rng.normal(0, 2, 40), rng.integers(0, 4, 40), rng.random(40)
    edges = [-INF, *thresholds, INF]
    wanted = -sum(
        w * math.log(stats.logistic.cdf(edges[k + 1] - v) - stats.logistic.cdf(edges[k] - v))
        for v, k, w in zip(values, levels, weights, strict=True)
    )
    loss, metrics = ordinal(torch.tensor(values), torch.tensor(levels), torch.tensor(weights), thresholds=thresholds)
    assert loss.item() == pytest.approx(wanted, rel=1e-9)
    right = [sum(v > t for t in thresholds) == k for v, k in zip(values, levels, strict=True)]
    assert metrics["accuracy"].item() == pytest.approx(np.average(right, weights=weights))


def test_ordinal_of_two_levels_is_logistic_and_stays_finite() -> None:
    values = tensor(-2, 0.5).requires_grad_()
    loss, _ = ordinal(values, tensor(1, 0), tensor(1, 1), thresholds=[0.3])
    assert loss.item() == pytest.approx(math.log1p(math.exp(2.3)) + math.log1p(math.exp(0.2)))
    far = tensor(1e4).requires_grad_()
    huge, _ = ordinal(far, tensor(1), tensor(1), thresholds=[0.0, 1.0])
    huge.backward()
    assert huge.item() == pytest.approx(1e4 - 1 - math.log(1 - math.exp(-1)))
    assert far.grad is not None
    assert far.grad.item() == pytest.approx(1.0)


def test_binary_by_hand() -> None:
    loss, metrics = binary(tensor(0, math.log(3), -1), tensor(1, 0.25, 0.5), tensor(2, 1, 9))
    by_hand = 2 * math.log(2) - (0.25 * math.log(0.75) + 0.75 * math.log(0.25))
    half = 0.5 * (math.log1p(math.exp(1)) + math.log1p(math.exp(-1)))
    assert loss.item() == pytest.approx(by_hand + 9 * half)
    assert metrics["accuracy"].item() == 0.0  # 0 is not above ½, log 3 is; the label ½ is on neither side
    assert binary(tensor(2.0, -2.0), tensor(1, 0), tensor(1, 1))[1]["accuracy"].item() == 1.0


def test_places_of_the_shorter_keep_its_last_value() -> None:
    a, b = at_each_place(tensor(1, 2, 3), tensor(7))
    assert (a.tolist(), b.tolist()) == ([1, 2, 3], [7, 7, 7])


def test_a_heads_dimension_goes_through_the_fits() -> None:
    values = torch.tensor([[0.5, -1.0], [2.0, 0.0]], dtype=torch.float64)
    labels, weights = tensor(1, 0)[:, None], torch.tensor([[1.0, 2.0], [3.0, 0.5]], dtype=torch.float64)
    for fit in (regression, binary, partial(ordinal, thresholds=[0.1])):
        apart = sum(fit(values[:, h], labels[:, 0], weights[:, h])[0].item() for h in (0, 1))
        assert fit(values, labels, weights)[0].item() == pytest.approx(apart)
