"""The numbers of a PPO step, over sampled tokens only (the mask of the loss)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from thumbs.functional.masked import masked_mean, masked_var
from thumbs.records import Score
from thumbs.safety.repetition import repetition

if TYPE_CHECKING:
    from thumbs.stages.ppo import Experience


def experience_metrics(experience: Experience, kl_coef: float) -> dict[str, float]:
    """What the rollouts looked like before the update; units in docs/metrics.md."""
    e, mask = experience, experience.mask
    scores = np.array([score.parts.get("raw", score.value) for score in e.scores])
    sequence_kl = ((e.logprobs - e.reference_logprobs) * mask).sum(dim=1)
    sampled = [rollout.logprobs[rollout.mask > 0] for rollout in e.rollouts]
    trained = [e.logprobs[i, : len(r.mask)].numpy()[r.mask > 0] for i, r in enumerate(e.rollouts)]
    variance = float(masked_var(e.returns, mask))
    return {
        "ppo/score": float(np.mean([score.value for score in e.scores])),
        "ppo/score_std": float(scores.std()),
        "ppo/reward": float((e.rewards * mask).sum(dim=1).mean()),
        "ppo/kl": float(sequence_kl.mean()),
        "ppo/kl_coef": kl_coef,
        "ppo/length": float(np.mean([rollout.reply_length for rollout in e.rollouts])),
        "ppo/truncated": float(np.mean([rollout.stop_reason == "length" for rollout in e.rollouts])),
        "ppo/repetition": float(np.mean([repetition(rollout.text) for rollout in e.rollouts])),
        "ppo/sampler_gap": float(np.abs(np.concatenate(sampled) - np.concatenate(trained)).mean()),
        "ppo/advantage_std": float(masked_var(e.advantages, mask)) ** 0.5,
        "ppo/value_error": float(masked_mean((e.returns - e.values).abs(), mask)),
        "ppo/explained_variance": 1.0 - float(masked_var(e.returns - e.values, mask)) / max(variance, 1e-8),
        "ppo/rollout_s": e.rollout_s,
    } | part_means("ppo", e.scores)


def part_means(section: str, scores: Sequence[Score]) -> dict[str, float]:
    """Mean of each part of the scores; the raw score of a lone reward model is not one."""
    names = [name for name in dict.fromkeys(n for score in scores for n in score.parts) if name != "raw"]
    given = {name: [score.parts[name] for score in scores if name in score.parts] for name in names}
    return {f"{section}/part/{name}": float(np.mean(values)) for name, values in given.items()}


def update_metrics(seen: list[dict[str, float]], epochs_done: float) -> dict[str, float]:
    """Means over the optimizer steps; the first ratio, the largest ratio and the last KL for themselves."""
    means = {
        f"ppo/{name}": float(np.mean([step[name] for step in seen]))
        for name in seen[0]
        if name not in ("ratio", "ratio_max", "approx_kl")
    }
    return means | {
        "ppo/approx_kl": seen[-1]["approx_kl"],
        "ppo/ratio_first": seen[0]["ratio"],
        "ppo/ratio_max": max(step["ratio_max"] for step in seen),
        "ppo/epochs_done": epochs_done,
    }
