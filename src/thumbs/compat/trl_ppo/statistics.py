"""The statistics of a step under TRL's names: floats and, for distributions, numpy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from thumbs.compat.trl_ppo.experience import Before
from thumbs.compat.trl_ppo.update import Seen
from thumbs.functional.masked import masked_mean

DISTRIBUTIONS = ("policy/advantages", "policy/ratio")


def step_statistics(before: Before, trained: torch.Tensor, seen: Sequence[Seen], kl_coef: float) -> dict[str, Any]:
    """objective/*, ppo/* and tokens/*; KL in nats per sequence, entropies in nats, lengths in tokens.

    Of each minibatch's means the mean over minibatches; ratio and advantages of every counted token of all of them.
    """
    forward = before.predictions
    kl = before.kl.sum(1)
    mean_kl = float(kl.mean())
    if mean_kl < -1.0:
        warnings.warn(
            f"KL divergence is starting to become negative: {mean_kl:.2f} nats. The replies are not the policy's own: "
            "they were drawn at another temperature than `step` knows of, cut by top_k or top_p, or changed since",
            stacklevel=4,
        )
    stats: dict[str, Any] = {
        "objective/kl": mean_kl,
        "objective/kl_dist": kl.numpy(),
        "objective/logprobs": forward.logprobs.numpy(),
        "objective/ref_logprobs": forward.reference_logprobs.numpy(),
        "objective/kl_coef": kl_coef,
        "objective/entropy": float(-forward.logprobs.sum(1).mean()),
        "ppo/mean_non_score_reward": float(masked_mean(-kl_coef * before.kl, forward.mask)),
        "ppo/mean_scores": float(trained.mean()),
        "ppo/std_scores": deviation(trained.numpy()),
    }
    queries = np.array([rollout.prompt_length for rollout in before.rollouts], dtype=np.float32)
    responses = np.array([len(rollout.tokens) for rollout in before.rollouts], dtype=np.float32) - queries
    for name, lengths in (("queries", queries), ("responses", responses)):
        stats |= {
            f"tokens/{name}_len_mean": float(lengths.mean()),
            f"tokens/{name}_len_std": deviation(lengths),
            f"tokens/{name}_dist": lengths,
        }
    if not seen:  # past its target nothing was updated
        return stats
    for name in seen[0]:
        values = [each[name] for each in seen]
        is_list = name in DISTRIBUTIONS
        stats[f"ppo/{name}"] = torch.cat(values).numpy() if is_list else float(torch.stack(values).mean())
    variance = stats["ppo/returns/var"]
    stats["ppo/val/var_explained"] = 1 - stats["ppo/val/error"] / variance if variance > 0 else 0.0
    return stats


def deviation(values: np.ndarray) -> float:
    """Sample deviation; 0 for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
