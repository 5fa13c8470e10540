"""Advantages and returns from token rewards and values."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns = advantages + values, all [B, T], score units.

    With δ_t = r_t + γ V_next(t) - V_t:  A_t = δ_t + γ λ A_next(t)   (Schulman et al. 2015,
    arXiv:1506.02438, eq. 16). next(t) is the next target of the row whose mask is 1: tool text between is
    skipped, as the policy did not act there. After the last one value and advantage are 0: the reply is
    over. For a reply that was cut, the caller adds γ · V(what follows) to its last reward, or leaves it.
    Entries with mask 0 have no influence and come back as 0. Nothing is whitened here.
    """
    counts = mask != 0
    advantages = torch.zeros_like(values)
    next_value = values.new_zeros(len(values))
    next_advantage = values.new_zeros(len(values))
    for t in range(values.shape[1] - 1, -1, -1):
        here = counts[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(here, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, next_advantage, 0.0)
    return advantages, (advantages + values).where(counts, 0.0)


def group_advantages(scores: Tensor, *, scale: bool = True, eps: float = 1e-4) -> Tensor:
    """(score - mean of its group) / (deviation of its group + eps), [P, G] → [P, G], score units or none.

    Shao et al. 2024, arXiv:2402.03300, section 4.1.2, with the sample deviation (divided by G - 1). scale=False leaves
    the division out (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783): dividing favours prompts whose scores hardly differ.
    A group whose scores are all equal gets zeros, however large they are.
    """
    from_first = _from_first(scores)
    centred = from_first - from_first.mean(dim=1, keepdim=True)
    return centred / (from_first.std(dim=1, keepdim=True) + eps) if scale else centred


def leave_one_out(scores: Tensor) -> Tensor:
    """score - mean of the other scores of its group, [P, G] → [P, G], score units; G > 1.

    Ahmadian et al. 2024, arXiv:2402.14740 (the RLOO estimator). It is G / (G - 1) times the difference from the group's
    mean, and unbiased: no reply is in its own baseline.
    """
    from_first = _from_first(scores)
    others = (from_first.sum(dim=1, keepdim=True) - from_first) / (scores.shape[1] - 1)
    return from_first - others


def _from_first(scores: Tensor) -> Tensor:
    """Differences from the first of each group: the mean of equal numbers need not be that number, as sums round, and
    dividing by the deviation of such errors would make advantages of them.
    """
    return scores - scores[:, :1]


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Sum of the rewards from each target to the end of its row, undiscounted, [B, T], score units; 0 under mask 0.

    With the score at the last target and -β KL at each it is r - β Σ_{i ≥ t} KL(i) (Hu et al. 2025, arXiv:2501.03262,
    REINFORCE++).
    """
    counted = rewards.where(mask != 0, 0.0)
    return counted.flip(1).cumsum(1).flip(1).where(mask != 0, 0.0)


def truncated_importance(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """min(π(token) / π_sampler(token), cap), same shape: what a token of an older sampler is worth to the policy π.

    Espeholt et al. 2018, arXiv:1802.01561, eq. 1 (the truncated weights of V-trace), for each token by itself.
    """
    return (logprobs - sampler_logprobs).exp().clamp(max=cap)


def masked_importance(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """π(token) / π_sampler(token) where it lies in [1 / cap, cap], 0 elsewhere; same shape.

    The token mask of IcePop (Ling Team 2025, arXiv:2510.18855, which takes 0.5 to 5): a token on which the two are far
    apart is not learned from, where truncation would still move it.
    """
    ratio = (logprobs - sampler_logprobs).exp()
    return ratio.where((ratio >= 1 / cap) & (ratio <= cap), 0.0)


def reply_masked_importance(logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """π(token) / π_sampler(token) in rows whose geometric mean of it over the mask lies in [1 / cap, cap], 0 in others;
    all [B, T].

    The sequence mask by geometric means, which does not grow with the length (Liu et al. 2025, "When Speed Kills
    Stability", richardli.xyz/rl-collapse).
    """
    gap = (logprobs - sampler_logprobs).where(mask != 0, 0.0)
    mean = gap.sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1.0)
    return gap.exp().where(mean.abs() <= math.log(cap), 0.0)


def importance_weights(name: str, logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Tensor:
    """What tokens of another sampler are worth to the policy π, [B, T], by a correction that has a name."""
    if name == "mask_replies":
        return reply_masked_importance(logprobs, sampler_logprobs, mask, cap)
    formula = {"truncate": truncated_importance, "mask_tokens": masked_importance}[name]
    return formula(logprobs, sampler_logprobs, cap)
