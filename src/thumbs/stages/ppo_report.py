"""The numbers of a PPO step, over sampled tokens only (the mask of the loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from thumbs.config.reward_parts import COST
from thumbs.functional.masked import masked_mean, masked_var
from thumbs.records import Rollout, Score
from thumbs.safety.guards import repetition

SAME_RATIO = (0.9, 1.1)
"""Ratios of trainer to sampler that pass for rounding."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What the models say of rollouts before the update; [B, T], padded, and only entries with mask 1 mean anything."""

    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor


@dataclass(frozen=True, eq=False)
class Experience:
    """What a step of PPO learns from; rewards, advantages and returns are as the predictions, [B, T] (score units).

    importance: corrected weights π/π_sampler [B, T]; None if the policy itself sampled the rollouts.
    """

    rollouts: Sequence[Rollout]
    scores: Sequence[Score]
    before: Predictions
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    importance: Tensor | None


def experience_metrics(experience: Experience) -> dict[str, float]:
    """What the rollouts looked like before the update; units in docs/metrics.md."""
    e, mask, values = experience, experience.before.mask, experience.before.values
    logprobs = e.before.logprobs
    scores = np.array([score.parts.get("raw", score.value) for score in e.scores])
    variance = float(masked_var(e.returns, mask))
    old = {} if e.importance is None else importance_metrics("ppo", e.importance, mask)
    return (
        old
        | reply_metrics("ppo", e.rollouts, e.scores)
        | sampler_metrics("ppo", e.rollouts, logprobs)
        | {
            "ppo/score_std": float(scores.std()),
            "ppo/reward": float((e.rewards * mask).sum(dim=1).mean()),
            "ppo/kl": sequence_kl(logprobs, e.before.reference_logprobs, mask),
            "ppo/advantage_std": float(masked_var(e.advantages, mask)) ** 0.5,
            "ppo/value_error": float(masked_mean((e.returns - values).abs(), mask)),
            "ppo/explained_variance": 1.0 - float(masked_var(e.returns - values, mask)) / max(variance, 1e-8),
        }
    )


def importance_metrics(stage: str, importance: Tensor, mask: Tensor) -> dict[str, float]:
    """Mean weight of the tokens that another sampler drew, and the share of them that is masked."""
    masked = float(masked_mean((importance == 0).to(mask.dtype), mask))
    return {f"{stage}/importance": float(masked_mean(importance, mask)), f"{stage}/importance_masked": masked}


def sampler_metrics(section: str, rollouts: Sequence[Rollout], logprobs: Tensor) -> dict[str, float]:
    """How far the logprobs of the sampler are from those of the trainer [B, T]: mean and 95th percentile of their
    distance (nats per token), and the share of tokens whose ratio lies outside SAME_RATIO.
    """
    sampled = np.concatenate([rollout.logprobs[rollout.mask > 0] for rollout in rollouts])
    rows = logprobs.numpy()
    trained = np.concatenate([rows[i, : len(r.mask)][r.mask > 0] for i, r in enumerate(rollouts)])
    gap, (low, high) = trained - sampled, np.log(SAME_RATIO)
    return {
        f"{section}/sampler_gap": float(np.abs(gap).mean()),
        f"{section}/sampler_gap_p95": float(np.quantile(np.abs(gap), 0.95)),
        f"{section}/sampler_off": float(np.mean((gap < low) | (gap > high))),
    }


def sequence_kl(logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor) -> float:
    """Mean of log π(y) - log π_ref(y) over rollouts (k1), nats per sequence; all [B, T]."""
    return float(((logprobs - reference_logprobs) * mask).sum(dim=1).mean())


def reply_metrics(section: str, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> dict[str, float]:
    """What every stage of rollouts logs: scores and their parts, lengths, replies cut off, repetition.

    The raw score of a lone reward model is not a part, and a cost is not of the score.
    """
    names = [n for n in dict.fromkeys(n for score in scores for n in score.parts) if n not in ("raw", COST)]
    parts = {name: [score.parts[name] for score in scores if name in score.parts] for name in names}
    means = {f"part/{name}": float(np.mean(values)) for name, values in parts.items()} | {
        "score": float(np.mean([score.value for score in scores])),
        "length": float(np.mean([rollout.reply_length for rollout in rollouts])),
        "truncated": float(np.mean([rollout.stop_reason == "length" for rollout in rollouts])),
        "repetition": float(np.mean([repetition(rollout.text) for rollout in rollouts])),
    }
    return {f"{section}/{name}": value for name, value in means.items()}


def update_metrics(steps: Sequence[dict[str, float]], epochs_done: float) -> dict[str, float]:
    """Means over the optimizer steps; the first ratio, the largest ratio and the last KL for themselves."""
    means = {
        f"ppo/{name}": float(np.mean([step[name] for step in steps]))
        for name in steps[0]
        if name not in ("ratio", "ratio_max", "approx_kl")
    }
    return means | {
        "ppo/approx_kl": steps[-1]["approx_kl"],
        "ppo/ratio_first": steps[0]["ratio"],
        "ppo/ratio_max": max(step["ratio_max"] for step in steps),
        "ppo/epochs_done": epochs_done,
    }
