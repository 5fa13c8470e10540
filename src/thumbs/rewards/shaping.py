"""From one score a rollout to one reward a token."""

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


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coef: float) -> Tensor:
    """r_t = -coef · kl_t, and the score once more at the last sampled target (score units).

    scores [B]; kl, mask [B, T]. A reply cut by the length limit is treated as finished: its value after the cut is 0.
    Source: Ziegler et al. 2019, arXiv:1909.08593, eq. 2, spread over tokens as InstructGPT does.
    """
    rewards = -coef * kl * mask
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    last = torch.where(mask > 0, positions, -1).max(dim=1).values
    rows = torch.arange(len(scores), device=mask.device)[last >= 0]
    rewards[rows, last[rows]] += scores[rows].to(rewards.dtype)
    return rewards
