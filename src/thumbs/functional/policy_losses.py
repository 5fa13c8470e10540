"""Losses on the policy's logprobs: sums (the weights carry the normaliser), with detached metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from thumbs.functional.masked import masked_sum

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this (nats) before exp, so that one stray token cannot give infinity."""


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    clip_range: float,
    entropy: Tensor | None = None,
    entropy_coef: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ w · max(-A r, -A clip(r, 1 - c, 1 + c)) - entropy_coef · Σ w · H, r = exp(logprobs - old_logprobs).

    Schulman et al. 2017, arXiv:1707.06347, eq. 7 negated (a loss) and the entropy term of eq. 9. All inputs
    have one shape, indexed by target; logprobs, old_logprobs and entropy in nats. Entries with weight 0
    have no influence.
    Metrics, means weighted by w: approx_kl = r - 1 - log r (nats; the k3 estimate of KL(old ‖ new)),
    clip_fraction (|r - 1| > c), ratio, entropy if given; and ratio_max, the largest r.
    """
    counts = weights != 0
    w, advantage = weights[counts], advantages[counts]
    log_ratio = (logprobs[counts] - old_logprobs[counts]).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    loss = (w * torch.maximum(-advantage * ratio, -advantage * clipped)).sum()
    with torch.no_grad():
        terms = {
            "approx_kl": log_ratio.expm1() - log_ratio,
            "clip_fraction": ((ratio - 1.0).abs() > clip_range).to(w.dtype),
            "ratio": ratio,
        }
        if entropy is not None:
            terms["entropy"] = entropy[counts]
        total = w.sum()
        metrics = {name: (w * x).sum() / total if len(w) else total for name, x in terms.items()}
        metrics["ratio_max"] = ratio.max() if len(w) else total
    # Even 0 · entropy would ask for the gradient of the entropy, which costs a second pass over the logits.
    if entropy is not None and entropy_coef != 0.0:
        loss = loss - entropy_coef * masked_sum(weights * entropy, weights)
    return loss, metrics


def cross_entropy(logprobs: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """-Σ w · logprobs over targets (nats); the metric nll is the same divided by Σ w: nats a token.

    Entries with weight 0 have no influence.
    """
    loss = -masked_sum(weights * logprobs, weights)
    total = weights.sum()
    return loss, {"nll": loss.detach() / total if total != 0 else total}
