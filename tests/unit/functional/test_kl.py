"""KL estimators against the exact KL of two small distributions; the controller against numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from thumbs.functional.kl import adapt_coefficient, kl_estimate

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
EXACT = 0.5 * math.log(2.5) + 0.3 * math.log(1.5) + 0.2 * math.log(1 / 3)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(estimator: str) -> None:
    estimate = kl_estimate(POLICY.log(), REFERENCE.log(), estimator)  # type: ignore[arg-type]
    assert (POLICY * estimate).sum().item() == pytest.approx(EXACT, abs=1e-12)


def test_each_estimator_by_hand() -> None:
    new, old = torch.log(torch.tensor([0.5, 0.1])), torch.log(torch.tensor([0.25, 0.4]))
    d = [math.log(2), -math.log(4)]
    assert kl_estimate(new, old, "k1").tolist() == pytest.approx(d, abs=1e-6)
    assert kl_estimate(new, old, "k2").tolist() == pytest.approx([x * x / 2 for x in d], abs=1e-6)
    assert kl_estimate(new, old, "k3").tolist() == pytest.approx([0.5 - 1 + d[0], 4 - 1 + d[1]], abs=1e-6)


def test_k3_keeps_its_digits_where_the_policies_hardly_differ() -> None:
    estimate = kl_estimate(torch.tensor([1e-3]), torch.tensor([0.0]), "k3").item()
    assert estimate == pytest.approx(4.9983e-7, rel=1e-3)


def test_unknown_estimator() -> None:
    with pytest.raises(ValueError, match="k1, k2, k3"):
        kl_estimate(POLICY, POLICY, "k4")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),  # on target
        (6.6, 0.1 * (1 + 0.1 * 0.5)),  # 10 % above
        (60.0, 0.1 * (1 + 0.2 * 0.5)),  # far above: clipped
        (0.0, 0.1 * (1 - 0.2 * 0.5)),  # far below: clipped
    ],
)
def test_controller_by_hand(kl: float, expected: float) -> None:
    assert adapt_coefficient(0.1, kl, target=6.0, horizon=100, n=50) == pytest.approx(expected)
