"""The KL term of a policy loss against the formula of its paper, and the direction of its gradient."""

from __future__ import annotations

import pytest
import torch

import oracles.groups
from thumbs.functional.policy_losses import kl_penalty


def test_k3_equals_the_slow_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    logprobs, reference = torch.randn(2, 12, generator=rng, dtype=torch.float64)
    weights = torch.rand(12, generator=rng, dtype=torch.float64)
    weights[3] = 0.0
    reference[3] = float("nan")
    rows = [*zip(logprobs.tolist(), reference.tolist(), weights.tolist(), strict=True)]
    each = [w * oracles.groups.k3(a, b) for a, b, w in rows if w]
    loss, metrics = kl_penalty(logprobs, reference, weights, estimator="k3")
    assert float(loss) == pytest.approx(sum(each))
    assert float(metrics["kl"]) == pytest.approx(sum(each) / float(weights.sum()))


def test_by_hand() -> None:
    """d = log 2 and -log 2: k2 is (log 2)² / 2 twice, k3 is 1/2 - 1 + log 2 and 2 - 1 - log 2."""
    logprobs = torch.tensor([2.0, 1.0]).log()
    reference, weights = torch.tensor([1.0, 2.0]).log(), torch.tensor([1.0, 1.0])
    assert float(kl_penalty(logprobs, reference, weights, estimator="k2")[0]) == pytest.approx(0.4804530)
    assert float(kl_penalty(logprobs, reference, weights, estimator="k3")[0]) == pytest.approx(0.5)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_expected_gradient_is_that_of_a_divergence(estimator: str) -> None:
    """Over all tokens with their own probabilities: k2 has the gradient of KL(π ‖ π_ref), k3 that of KL(π_ref ‖ π)."""
    rng = torch.Generator().manual_seed(1)
    logits = torch.randn(9, generator=rng, dtype=torch.float64, requires_grad=True)
    reference = torch.randn(9, generator=rng, dtype=torch.float64).log_softmax(0)
    policy = logits.log_softmax(0)
    loss, _ = kl_penalty(policy, reference, policy.exp().detach(), estimator=estimator)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    first, second = (policy, reference) if estimator == "k2" else (reference, policy)
    (wanted,) = torch.autograd.grad((first.exp() * (first - second)).sum(), logits)
    torch.testing.assert_close(found, wanted)
