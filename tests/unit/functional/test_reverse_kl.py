"""The divergence from a reference against torch's own, and its gradient against autograd's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from thumbs.functional.reverse_kl import divergence, reverse_kl

M, D, V = 7, 5, 31


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    hidden, reference, weight = (torch.randn(n, D, generator=rng, dtype=torch.float64) for n in (M, M, V))
    return hidden.requires_grad_(), reference, weight


def test_two_words_by_hand() -> None:
    # Logits 2 and 0 against 0 and 0 at temperature 2: p = (e, 1) / (e + 1), q = (1/2, 1/2).
    p = math.e / (math.e + 1)
    found = divergence(torch.tensor([[2.0]]), torch.zeros(1, 1), torch.tensor([[1.0], [0.0]]), temperature=2.0)
    assert found.tolist() == pytest.approx([p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))], abs=1e-6)


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_are_those_of_torch(chunk: int, temperature: float) -> None:
    hidden, reference, weight = inputs()
    found = divergence(hidden, reference, weight, temperature, chunk)
    logp, logq = ((x @ weight.T / temperature).log_softmax(-1) for x in (hidden, reference))
    expected = F.kl_div(logq, logp, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, expected)
    upstream = torch.linspace(-1, 2, M, dtype=torch.float64)
    slopes = [torch.autograd.grad(x, hidden, upstream)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes)


def test_nothing_is_between_a_policy_and_itself() -> None:
    hidden, _, weight = inputs()
    found = divergence(hidden, hidden.detach(), weight)
    assert found.abs().max() < 1e-12
    assert torch.autograd.grad(found.sum(), hidden)[0].abs().max() < 1e-12


def test_the_loss_is_weighted_and_scaled_by_the_square_of_the_temperature() -> None:
    loss, metrics = reverse_kl(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 0.5]), 3.0)
    assert float(loss) == pytest.approx(9 * 3.0)
    assert float(metrics["mean"]) == pytest.approx(9 * 3.0 / 1.5)
