"""Losses of pairs of scores against loops, their symmetry, and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import oracles.losses
from thumbs.functional.reward_losses import PAIRS, bradley_terry, pair_loss


def pairs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, 30, generator=rng, dtype=torch.float64)
    preferred = torch.tensor([0.0, 0.5, 1.0, 0.8], dtype=torch.float64).repeat(8)[:30]
    margin = torch.rand(30, generator=rng, dtype=torch.float64) * (preferred != 0.5)
    return a, b, preferred, margin, torch.rand(30, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("center", [0.0, 0.1])
@pytest.mark.parametrize("name", PAIRS)
def test_matches_the_loop(name: str, center: float) -> None:
    data, oracle, expected = pairs(), getattr(oracles.losses, name), 0.0
    loss, _ = pair_loss(PAIRS[name], *data, center_coef=center)
    for a, b, p, m, w in zip(*(x.tolist() for x in data), strict=True):
        expected += w * (p * oracle(a, b, m) + (1 - p) * oracle(b, a, m) + center * (a + b) ** 2)
    assert loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_order_of_the_pair_does_not_matter(name: str) -> None:
    a, b, preferred, margin, weights = pairs()
    loss, metrics = pair_loss(PAIRS[name], a, b, preferred, margin, weights, 0.1)
    turned, turned_metrics = pair_loss(PAIRS[name], b, a, 1 - preferred, margin, weights, 0.1)
    assert loss.item() == pytest.approx(turned.item(), abs=1e-12)
    for metric, value in metrics.items():
        assert value.item() == pytest.approx(turned_metrics[metric].item(), abs=1e-12)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("far", [-1e4, 1e4])
def test_far_scores_have_finite_slopes_in_both_orders(name: str, far: float) -> None:
    a = torch.tensor([far], requires_grad=True)
    loss, _ = pair_loss(PAIRS[name], a, torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1))
    loss.backward()
    assert a.grad is not None
    assert math.isfinite(loss.item())
    assert math.isfinite(a.grad.item())


def test_equal_scores_cost_log_two_and_the_preferred_one_is_raised() -> None:
    a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    loss, _ = pair_loss(bradley_terry, a, b, torch.ones(1), torch.zeros(1), torch.ones(1), 0.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.item(), b.grad.item()) == (-0.5, 0.5)


def test_margin_is_asked_of_the_preferred_side() -> None:
    one, margin = torch.ones(1), torch.tensor([2.0])
    for a, b, preferred in ((2.0, 0.0, 1.0), (0.0, 2.0, 0.0)):
        scores = torch.tensor([a]), torch.tensor([b])
        loss, _ = pair_loss(bradley_terry, *scores, torch.tensor([preferred]), margin, one, 0.0)
        assert loss.item() == pytest.approx(math.log(2))


def test_tie_pulls_scores_together_and_centring_pulls_them_to_zero() -> None:
    a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([1.0], requires_grad=True)
    pair_loss(bradley_terry, a, b, torch.tensor([0.5]), torch.zeros(1), torch.ones(1), 0.0)[0].backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.item() == pytest.approx(1 / (1 + math.exp(-2)) - 0.5)
    assert b.grad.item() == -a.grad.item()
    gap_only, _ = pair_loss(bradley_terry, a, b, torch.ones(1), torch.zeros(1), torch.ones(1), 0.0)
    centred, _ = pair_loss(bradley_terry, a, b, torch.ones(1), torch.zeros(1), torch.ones(1), 0.25)
    assert (centred - gap_only).item() == pytest.approx(0.25 * 16)


def test_metrics_leave_ties_out() -> None:
    a, b = torch.tensor([2.0, 0.0, 5.0, 1.0]), torch.tensor([1.0, 3.0, 0.0, 1.0])
    preferred, weights = torch.tensor([1.0, 1.0, 0.5, 0.0]), torch.tensor([2.0, 1.0, 9.0, 1.0])
    _, metrics = pair_loss(bradley_terry, a, b, preferred, torch.zeros(4), weights, 0.0)
    assert metrics["accuracy"].item() == 0.5  # right with weight 2; wrong with 1; equal scores with 1
    assert metrics["score_gap"].item() == (2 * 1 - 3 + 0) / 4
    _, only_ties = pair_loss(bradley_terry, a, b, torch.full((4,), 0.5), torch.zeros(4), weights, 0.0)
    assert only_ties["accuracy"].item() == only_ties["score_gap"].item() == 0.0


def test_huge_gaps_stay_finite() -> None:
    a = torch.tensor([-1e4], requires_grad=True)
    loss, _ = pair_loss(bradley_terry, a, torch.zeros(1), torch.ones(1), torch.zeros(1), torch.ones(1), 0.0)
    loss.backward()
    assert loss.item() == 1e4
    assert a.grad is not None
    assert a.grad.item() == -1.0
