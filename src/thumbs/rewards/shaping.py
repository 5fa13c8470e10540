"""From one score per rollout to one reward per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thumbs.config.ppo import PpoConfig
from thumbs.records import Rollout, Score


def shape_scores(scores: Sequence[Score], rollouts: Sequence[Rollout], config: PpoConfig) -> Tensor:
    """Scores [B] that are trained on: clipped to ±score_clip, then less the penalty where the length limit cut."""
    values = torch.tensor([score.value for score in scores], dtype=torch.float32)
    if config.score_clip is not None:
        values = values.clamp(-config.score_clip, config.score_clip)
    cut = torch.tensor([float(rollout.stop_reason == "length") for rollout in rollouts])
    return values - config.missing_eos_penalty * cut


def overlong_penalties(lengths: Tensor, limit: int, buffer: float, penalty: float) -> Tensor:
    """What (last) replies [B] of these lengths (tokens) lose, score units: 0 up to (1 - buffer) · limit, then more.

    It grows linearly and is whole at the limit (Yu et al. 2025, arXiv:2503.14476, eq. 13, where it is whole one buffer
    after the length that is expected). buffer 0: only at the limit.
    """
    free = limit - buffer * limit
    share = (lengths - free) / max(limit - free, 1e-6)
    return penalty * share.clamp(0.0, 1.0) if buffer else penalty * (lengths >= limit).to(share.dtype)


def token_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, coef: float, given: Sequence[Score] | None = None
) -> Tensor:
    """r_t = -coef · kl_t, and the score once more at the last sampled target (score units).

    scores [B]; kl, mask [B, T]. Of `given` scores that say where they fell, the numbers stand there, and the rest of
    scores, what shaping changed, at the last target. A reply cut by the length limit is treated as finished: its value
    after the cut is 0. Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2, spread over tokens as InstructGPT does.
    """
    rewards = -coef * kl * mask
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = torch.where(mask > 0, positions, -1).max(dim=1).values
    rows = torch.arange(len(scores), device=mask.device)[last >= 0]
    rest = scores.to(rewards.dtype).clone()
    for row, score in enumerate(given or ()):
        if score.tokens is not None:
            tokens = torch.tensor(score.tokens, dtype=rewards.dtype, device=mask.device)
            rewards[row, mask[row] > 0] += tokens
            rest[row] -= tokens.sum()
    rewards[rows, last[rows]] += rest[rows]
    return rewards
