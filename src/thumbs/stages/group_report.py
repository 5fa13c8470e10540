"""The numbers of a step of the group family, over sampled tokens only (the mask of the loss)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from thumbs.functional.masked import masked_mean
from thumbs.records import Rollout, Score
from thumbs.safety.repetition import repetition
from thumbs.stages.group_supply import Supply
from thumbs.stages.ppo_report import part_means


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a step learned from; tensors are [B, T] but overlong [B]; reference logprobs where they were asked for."""

    number: int
    taken: Supply
    rollouts: Sequence[Rollout]
    scores: Sequence[Score]
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor | None
    overlong: Tensor
    importance: Tensor


def lesson_metrics(lesson: Lesson) -> dict[str, float]:
    """What the rollouts looked like before the update; units in docs/metrics.md."""
    e, groups = lesson, lesson.taken.groups
    metrics = {
        "group/score": float(np.mean([score.value for score in e.scores])),
        "group/score_std": float(np.mean([np.std([s.value for s in group.scores]) for group in groups])),
        "group/without_signal": float(np.mean([not group.has_signal for group in groups])),
        "group/redraws": float(e.taken.redraws),
        "group/dropped": float(e.taken.dropped),
        "group/staleness": float(np.mean([e.number - group.step for group in groups])),
        "group/importance": float(masked_mean(e.importance, e.mask)),
        "group/length": float(np.mean([rollout.reply_length for rollout in e.rollouts])),
        "group/truncated": float(np.mean([rollout.stop_reason == "length" for rollout in e.rollouts])),
        "group/overlong": float(e.overlong.mean()),
        "group/repetition": float(np.mean([repetition(rollout.text) for rollout in e.rollouts])),
        "group/entropy": float(masked_mean(-e.logprobs, e.mask)),
    }
    if e.reference_logprobs is not None:
        metrics["group/kl"] = float(((e.logprobs - e.reference_logprobs) * e.mask).sum(dim=1).mean())
    return metrics | part_means("group", e.scores)


def update_metrics(seen: Sequence[dict[str, float]], loss: str) -> dict[str, float]:
    """Means over the optimizer steps of what the loss of that name reports; the first ratio for itself."""
    names = {f"{loss}/loss_sum": "policy_loss", f"{loss}/clip_fraction": "clip_fraction"}
    names |= {f"{loss}/approx_kl": "approx_kl", "grad_norm": "grad_norm"}
    if "kl_penalty/loss_sum" in seen[0]:
        names["kl_penalty/loss_sum"] = "kl_loss"
    means = {f"group/{name}": float(np.mean([step[key] for step in seen])) for key, name in names.items()}
    return means | {"group/ratio_first": seen[0][f"{loss}/ratio"]}
