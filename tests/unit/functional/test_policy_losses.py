"""The policy losses against loops, numbers by hand, and the direction that their gradient must have."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import oracles.losses
from thumbs.functional.policy_losses import cross_entropy, ppo_clip


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    old = -torch.rand(40, generator=rng, dtype=torch.float64) - 0.5
    new = old + 0.3 * torch.randn(40, generator=rng, dtype=torch.float64)
    advantages = torch.randn(40, generator=rng, dtype=torch.float64)
    weights = torch.rand(40, generator=rng, dtype=torch.float64)
    weights[::4] = 0
    return new, old, advantages, weights


@pytest.mark.parametrize("seed", range(3))
def test_ppo_clip_matches_the_paper(seed: int) -> None:
    data = batch(seed)
    loss, _ = ppo_clip(*data, clip_range=0.2)
    assert loss.item() == pytest.approx(oracles.losses.ppo_clip(*(x.tolist() for x in data), 0.2), abs=1e-12)


def test_the_same_policy_has_ratio_one() -> None:
    _, old, advantages, weights = batch()
    loss, metrics = ppo_clip(old, old, advantages, weights, 0.2)
    assert loss.item() == pytest.approx(-(weights * advantages).sum().item())
    assert metrics["ratio"].item() == pytest.approx(1.0, abs=1e-15)
    assert metrics["ratio_max"].item() == 1.0
    assert metrics["approx_kl"].item() == metrics["clip_fraction"].item() == 0.0


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        (1.0, 2.0, -2.0),  # a good token becomes likelier
        (1.0, -2.0, 2.0),  # a bad one rarer
        (1.5, 2.0, 0.0),  # good, but already likelier than trusted
        (1.5, -2.0, 3.0),  # bad and likelier: pulled back however far
        (0.5, 2.0, -1.0),
        (0.5, -2.0, 0.0),
    ],
)
def test_gradient_of_each_case(ratio: float, advantage: float, slope: float) -> None:
    new = torch.tensor([math.log(ratio)], requires_grad=True)
    loss, _ = ppo_clip(new, torch.zeros(1), torch.tensor([advantage]), torch.ones(1), 0.2)
    loss.backward()
    assert new.grad is not None
    assert new.grad.item() == pytest.approx(slope, abs=1e-6)


def test_metrics_by_hand() -> None:
    new, weights = torch.log(torch.tensor([0.5, 1.1, 9.0])), torch.tensor([3.0, 1.0, 0.0])
    entropy = torch.tensor([2.0, 6.0, float("nan")])
    _, metrics = ppo_clip(new, torch.zeros(3), torch.ones(3), weights, 0.2, entropy)
    assert metrics["ratio"].item() == pytest.approx((3 * 0.5 + 1.1) / 4)
    assert metrics["ratio_max"].item() == pytest.approx(1.1)
    assert metrics["clip_fraction"].item() == pytest.approx(0.75)
    expected = (3 * (0.5 - 1 - math.log(0.5)) + (1.1 - 1 - math.log(1.1))) / 4
    assert metrics["approx_kl"].item() == pytest.approx(expected, abs=1e-6)
    assert metrics["entropy"].item() == pytest.approx(3.0)
    assert not any(metric.requires_grad for metric in metrics.values())


def test_entropy_is_rewarded_and_not_differentiated_for_nothing() -> None:
    new, old, advantages, weights = batch()
    entropy = torch.rand(40, dtype=torch.float64, requires_grad=True)
    plain, _ = ppo_clip(new, old, advantages, weights, 0.2)
    with_bonus, _ = ppo_clip(new, old, advantages, weights, 0.2, entropy, 0.5)
    assert (plain - with_bonus).item() == pytest.approx(0.5 * (weights * entropy).sum().item())
    only_measured, _ = ppo_clip(new, old, advantages, weights, 0.2, entropy)
    assert only_measured.item() == plain.item()
    assert not only_measured.requires_grad


def test_a_token_gone_astray_stays_finite() -> None:
    new = torch.tensor([500.0, -500.0], requires_grad=True)
    loss, metrics = ppo_clip(new, torch.zeros(2), -torch.ones(2), torch.ones(2), 0.2)
    loss.backward()
    assert loss.isfinite()
    assert metrics["ratio_max"].item() == pytest.approx(math.exp(20))
    assert new.grad is not None
    assert new.grad.isfinite().all()


def test_weight_zero_has_no_influence_even_on_nan() -> None:
    nan, weights = torch.full((3,), float("nan"), requires_grad=True), torch.zeros(3)
    loss, metrics = ppo_clip(nan, nan, nan, weights, 0.2, nan, 0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert all(metric.item() == 0.0 for metric in metrics.values())
    assert cross_entropy(torch.tensor([-1.0, float("nan")]), torch.tensor([2.0, 0.0]))[0].item() == 2.0
    assert cross_entropy(nan, weights)[1]["nll"].item() == 0.0


def test_cross_entropy_by_hand() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -4.0], requires_grad=True)
    loss, metrics = cross_entropy(logprobs, torch.tensor([0.5, 0.25, 0.0]))
    loss.backward()
    assert loss.item() == 1.0
    assert metrics["nll"].item() == pytest.approx(4 / 3)
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [-0.5, -0.25, 0.0]


def test_losses_of_parts_add_up() -> None:
    data = batch()
    whole, _ = ppo_clip(*data, clip_range=0.2)
    parts = [ppo_clip(*(x[rows] for x in data), clip_range=0.2)[0] for rows in (slice(0, 7), slice(7, 40))]
    assert whole.item() == pytest.approx(sum(p.item() for p in parts))
