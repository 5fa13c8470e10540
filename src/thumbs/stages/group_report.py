"""The numbers of a step of the group family, over sampled tokens only (the mask of the loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from thumbs.functional.masked import masked_mean
from thumbs.stages.group_supply import groups_of, has_signal
from thumbs.stages.ppo_report import importance_metrics, reply_metrics, sampler_metrics, sequence_kl
from thumbs.stages.rollout_queue import ScoredBatch


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a step learned from; tensors are [B, T] but overlong [B]; reference logprobs where they were asked for.

    measured: whether the logprobs are the trainer's own, and not those that the sampler gave.
    """

    number: int
    batch: ScoredBatch
    group_size: int
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor | None
    overlong: Tensor
    importance: Tensor
    measured: bool = False


def lesson_metrics(lesson: Lesson) -> dict[str, float]:
    """What the rollouts looked like before the update; units in docs/metrics.md."""
    e, batch = lesson, lesson.batch
    groups = [batch.scores[at] for at in groups_of(batch, e.group_size)]
    metrics = reply_metrics("group", batch.rollouts, batch.scores) | {
        "group/score_std": float(np.mean([np.std([s.value for s in group]) for group in groups])),
        "group/without_signal": float(np.mean([not has_signal(group) for group in groups])),
        "group/redraws": float(batch.redraws),
        "group/dropped": float(batch.dropped),
        "group/staleness": float(e.number - batch.step),
        "group/overlong": float(e.overlong.mean()),
        "group/entropy": float(masked_mean(-e.logprobs, e.mask)),
    }
    metrics |= importance_metrics("group", e.importance, e.mask)
    if e.measured:
        metrics |= sampler_metrics("group", batch.rollouts, e.logprobs)
    if e.reference_logprobs is not None:
        metrics["group/kl"] = sequence_kl(e.logprobs, e.reference_logprobs, e.mask)
    return metrics


def update_metrics(steps: Sequence[dict[str, float]], loss: str) -> dict[str, float]:
    """Means over the optimizer steps of what the loss of that name reports; the first ratio for itself."""
    names = {f"{loss}/loss_sum": "policy_loss", f"{loss}/clip_fraction": "clip_fraction"}
    names |= {f"{loss}/approx_kl": "approx_kl", "grad_norm": "grad_norm", "kl_penalty/loss_sum": "kl_loss"}
    means = {
        f"group/{name}": float(np.mean([step[key] for step in steps])) for key, name in names.items() if key in steps[0]
    }
    return means | {"group/ratio_first": steps[0][f"{loss}/ratio"]}
