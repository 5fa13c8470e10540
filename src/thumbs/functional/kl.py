"""How far the policy is from its reference: per-token estimates, and the controller of the KL coefficient."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """One-sample estimate of KL(policy ‖ reference) for each token that the policy sampled, nats, same shape.

    With d = logprobs - reference_logprobs (Schulman 2020, "Approximating KL divergence"):
      k1 = d                  unbiased, may be negative
      k2 = d² / 2             biased, low variance, never negative
      k3 = exp(-d) - 1 + d    unbiased, never negative; heavy-tailed where the reference is far likelier
    """
    d = logprobs - reference_logprobs
    if estimator == "k1":
        return d
    if estimator == "k2":
        return d**2 / 2
    if estimator == "k3":
        return (-d).expm1() + d  # expm1: exp(-d) - 1 cancels in fp32 for the small d of early training
    raise ValueError(f"unknown KL estimator {estimator!r}; allowed: k1, k2, k3")


def adapt_coefficient(coef: float, kl: float, target: float, horizon: float, n: int) -> float:
    """The next KL coefficient: coef · (1 + clip(kl / target - 1, -0.2, 0.2) · n / horizon).

    kl and target in nats per sequence; n: sequences since the last call; horizon: in sequences. The log-space
    proportional controller of Ziegler et al. 2019, arXiv:1909.08593 §2.2; its K_β is n / horizon, as in its
    code.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coef * (1.0 + error * n / horizon)
