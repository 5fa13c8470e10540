"""The value loss against a loop and numbers by hand."""

from __future__ import annotations

import pytest
import torch

import oracles.losses
from thumbs.functional.value_losses import value_clip


@pytest.mark.parametrize("seed", range(3))
def test_matches_the_loop(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    values, old, returns = torch.randn(3, 30, generator=rng, dtype=torch.float64)
    weights = torch.rand(30, generator=rng, dtype=torch.float64)
    data = (values, old, returns, weights)
    loss, _ = value_clip(*data, clip_range=0.3)
    assert loss.item() == pytest.approx(oracles.losses.value_clip(*(x.tolist() for x in data), 0.3), abs=1e-12)


@pytest.mark.parametrize(
    ("value", "target", "loss", "slope"),
    [
        (0.1, 1.0, 0.405, -0.9),  # inside the range: the plain square
        (0.5, 1.0, 0.32, 0.0),  # moved past the range towards the return: (0.2 - 1)² is larger, no pull
        (0.5, -1.0, 1.125, 1.5),  # moved past the range away from it: pulled back
    ],
)
def test_each_case_by_hand(value: float, target: float, loss: float, slope: float) -> None:
    v = torch.tensor([value], requires_grad=True)
    found, _ = value_clip(v, torch.zeros(1), torch.tensor([target]), torch.ones(1), clip_range=0.2)
    found.backward()
    assert found.item() == pytest.approx(loss)
    assert v.grad is not None
    assert v.grad.item() == pytest.approx(slope, abs=1e-6)


def test_without_clipping_it_is_half_the_square() -> None:
    values, returns, weights = torch.tensor([5.0, 1.0]), torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.25])
    loss, metrics = value_clip(values, torch.zeros(2), returns, weights, clip_range=None)
    assert loss.item() == 0.5 * (0.5 * 16 + 0.25 * 4)
    assert metrics["value_error"].item() == pytest.approx((2 * 16 + 4) / 3)
    assert metrics["value_clip_fraction"].item() == 0.0


def test_metrics_by_hand_and_masked() -> None:
    nan = float("nan")
    values = torch.tensor([0.5, 0.1, nan], requires_grad=True)
    returns, weights = torch.tensor([1.0, 0.0, nan]), torch.tensor([1.0, 1.0, 0.0])
    loss, metrics = value_clip(values, torch.tensor([0.0, 0.0, nan]), returns, weights, clip_range=0.2)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (0.64 + 0.01))
    assert metrics["value_error"].item() == pytest.approx((0.25 + 0.01) / 2)
    assert metrics["value_clip_fraction"].item() == 0.5
    # Residuals 0.5 and -0.1 have variance 0.09, returns 1 and 0 have 0.25.
    assert metrics["explained_variance"].item() == pytest.approx(1 - 0.09 / 0.25)
    assert values.grad is not None
    assert values.grad[2].item() == 0.0


def test_explained_variance_of_a_perfect_a_constant_and_no_critic() -> None:
    returns, ones = torch.tensor([1.0, 2.0, 4.0]), torch.ones(3)
    assert value_clip(returns, returns, returns, ones, clip_range=0.2)[1]["explained_variance"].item() == 1.0
    same = torch.full((3,), 2.0)
    none = value_clip(same, same, returns, ones, clip_range=0.2)[1]["explained_variance"]
    assert none.item() == pytest.approx(0, abs=1e-6)
    assert value_clip(returns, returns, same, ones, clip_range=0.2)[1]["explained_variance"].item() == 0.0
    loss, metrics = value_clip(returns, returns, same, torch.zeros(3), clip_range=0.2)
    assert loss.item() == 0.0
    assert all(metric.item() == 0.0 for metric in metrics.values())
