"""Losses on the policy's logprobs: sums (the weights carry the normaliser), with detached metrics.

Those against a sampler's logprobs take inputs of one shape, indexed by target: logprobs and old_logprobs in nats,
advantages in score units. Entries with weight 0 have no influence. With r = exp(logprobs - old_logprobs), their
metrics, means weighted by w: approx_kl = r - 1 - log r (nats; the k3 estimate of KL(old ‖ new)), clip_fraction (r is
outside of its bounds), ratio; and ratio_max, the largest r.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thumbs.functional.formulas import Loss, by_name
from thumbs.functional.kl import KlEstimator, kl_estimate
from thumbs.functional.masked import masked_sum, places, ratio

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to ± this (nats) before exp, so that one stray token cannot give infinity."""


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    entropy: Tensor | None = None,
    *,
    clip_range: float = 0.2,
    clip_range_high: float | None = None,
    entropy_coef: float = 0.0,
) -> Loss:
    """Σ w · max(-A r, -A clip(r, 1 - c, 1 + d)) - entropy_coef · Σ w · H; c = clip_range, d is c unless it is given.

    Schulman et al. 2017, arXiv:1707.06347, eq. 7 negated (a loss) and the entropy term of eq. 9; entropy in nats, and
    among the metrics where it is given. d other than c: Yu et al. 2025, arXiv:2503.14476, eq. 10.
    """
    counts = places(weights)
    w, advantage = weights[counts], advantages[counts]
    log_ratio = _log_ratio(logprobs[counts], old_logprobs[counts])
    low, high = 1.0 - clip_range, 1.0 + (clip_range if clip_range_high is None else clip_range_high)
    loss = _clipped(w, log_ratio, advantage, low, high)
    entropies = None if entropy is None else entropy[counts]
    # Even 0 · entropy would ask for the gradient of the entropy, which costs a second pass over the logits.
    if entropies is not None and entropy_coef != 0.0:
        loss = loss - entropy_coef * (w * entropies).sum()
    return loss, _metrics(w, log_ratio, low, high, entropies)


def importance_sampling(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, weights: Tensor) -> Loss:
    """-Σ w · r · A: the off-policy policy gradient, unbiased and unbounded (nothing counts as clipped)."""
    counts = places(weights)
    log_ratio = _log_ratio(logprobs[counts], old_logprobs[counts])
    loss = -(weights[counts] * log_ratio.exp() * advantages[counts]).sum()
    return loss, _metrics(weights[counts], log_ratio, 0.0, float("inf"))


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    *,
    clip_range: float = 1.0,
    clip_range_high: float = 3.0,
) -> Loss:
    """-Σ w · sg(clip(r, 1 - clip_range, 1 + clip_range_high)) · A · logprobs, sg: taken as a constant.

    MiniMax 2025, arXiv:2506.13585, eq. 4: the weight is clipped, not the gradient, so that no token is dropped.
    """
    counts = places(weights)
    chosen = logprobs[counts]
    log_ratio, low, high = _log_ratio(chosen.detach(), old_logprobs[counts]), 1.0 - clip_range, 1.0 + clip_range_high
    loss = -(weights[counts] * log_ratio.exp().clamp(low, high) * advantages[counts] * chosen).sum()
    return loss, _metrics(weights[counts], log_ratio, low, high)


def dro(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, weights: Tensor, *, beta: float = 0.05) -> Loss:
    """-Σ w · (A · logprobs - ½ beta · (logprobs - old_logprobs)²).

    The policy's part of direct reward optimisation, Richemond et al. 2024, arXiv:2405.19107, by token.
    """
    counts = places(weights)
    chosen, old = logprobs[counts], old_logprobs[counts]
    loss = -(weights[counts] * (advantages[counts] * chosen - 0.5 * beta * (chosen - old) ** 2)).sum()
    return loss, _metrics(weights[counts], _log_ratio(chosen.detach(), old), 0.0, float("inf"))


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    ratio_mask: Tensor,
    sequence: Tensor,
    *,
    clip_range: float = 0.2,
    clip_range_high: float = 0.2,
) -> Loss:
    """PPO's loss with r_t = exp(log s + logprobs - sg(logprobs)), clipped to [1 - clip_range, 1 + clip_range_high].

    log s is the mean of sg(logprobs) - old_logprobs over the targets of the sequence where ratio_mask is not 0, so
    every token of a sequence has its ratio and its clipping. `sequence` says which one each target belongs to, 0, 1, ….
    Zheng et al. 2025, arXiv:2507.18071, eq. 13 to 15 (GSPO-token).
    """
    asked = (ratio_mask != 0).to(logprobs.dtype)
    differences = torch.where(asked != 0, logprobs.detach() - old_logprobs, 0.0)
    sums = logprobs.new_zeros(2, len(sequence))  # there are no more sequences than targets
    sums.index_add_(1, sequence, torch.stack([differences, asked]))
    mean = sums[0] / sums[1].clamp(min=1.0)
    counts = places(weights)
    chosen = logprobs[counts]
    log_ratio = (mean[sequence[counts]] + chosen - chosen.detach()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    low, high = 1.0 - clip_range, 1.0 + clip_range_high
    loss = _clipped(weights[counts], log_ratio, advantages[counts], low, high)
    return loss, _metrics(weights[counts], log_ratio.detach(), low, high)


def kl_penalty(logprobs: Tensor, reference_logprobs: Tensor, weights: Tensor, *, estimator: KlEstimator = "k3") -> Loss:
    """Σ w · kl, the estimate `kl_estimate` of KL(policy ‖ reference) at each sampled token; metric kl (nats).

    Shao et al. 2024, arXiv:2402.03300, eq. 4 (k3). Differences of logprobs are clamped as the log-ratios are. The
    gradient of k1 is 0 on average, so it is refused.
    """
    if estimator == "k1":
        raise ValueError("a loss of KL by k1 has no gradient on average; allowed are k2 and k3")
    counts = places(weights)
    reference = reference_logprobs[counts]
    kl = kl_estimate(_log_ratio(logprobs[counts], reference), torch.zeros_like(reference), estimator)
    loss = (weights[counts] * kl).sum()
    return loss, {"kl": ratio((weights[counts] * kl.detach()).sum(), weights.sum())}


def cross_entropy(logprobs: Tensor, weights: Tensor) -> Loss:
    """-Σ w · logprobs over targets (nats); the metric nll is the same divided by Σ w: nats per token.

    Entries with weight 0 have no influence.
    """
    loss = -masked_sum(weights * logprobs, weights)
    return loss, {"nll": ratio(loss.detach(), weights.sum())}


FORMULAS = by_name(cross_entropy, ppo_clip, importance_sampling, cispo, dro, gspo, kl_penalty)
"""Losses of tokens that read the policy's logprobs."""


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def _clipped(w: Tensor, log_ratio: Tensor, advantages: Tensor, low: float, high: float) -> Tensor:
    """Σ w · max(-A r, -A clip(r, low, high))."""
    ratios = log_ratio.exp()
    return (w * torch.maximum(-advantages * ratios, -advantages * ratios.clamp(low, high))).sum()


@torch.no_grad()
def _metrics(w: Tensor, log_ratio: Tensor, low: float, high: float, entropy: Tensor | None = None) -> dict[str, Tensor]:
    ratios = log_ratio.exp()
    terms = {
        "approx_kl": log_ratio.expm1() - log_ratio,
        "clip_fraction": ((ratios < low) | (ratios > high)).to(w.dtype),
        "ratio": ratios,
    }
    if entropy is not None:
        terms["entropy"] = entropy
    total = w.sum()
    metrics = {name: (w * x).sum() / total if len(w) else total for name, x in terms.items()}
    return metrics | {"ratio_max": ratios.max() if len(w) else total}
