"""Losses on the critic's values: sums (the weights carry the normaliser), with detached metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from thumbs.functional.formulas import Loss
from thumbs.functional.masked import places


def value_clip(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    weights: Tensor,
    *,
    clip_range: float | None = 0.2,
) -> Loss:
    """½ Σ w · max((V - R)², (clip(V, V_old - c, V_old + c) - R)²); clip_range None: ½ Σ w (V - R)².

    The clipped value loss of OpenAI's PPO2 code, kept by lm-human-preferences; no equation of the PPO paper.
    All inputs have one shape and are in score units; entries with weight 0 have no influence.
    Metrics, weighted by w: value_error = mean (V - R)², value_clip_fraction (share of targets where the
    clipped square is larger), explained_variance = 1 - Var(R - V) / Var(R), or 0 if returns do not vary.
    """
    counts = places(weights)
    v, old, r, w = values[counts], old_values[counts], returns[counts], weights[counts]
    squares = (v - r) ** 2
    worst = squares
    if clip_range is not None:
        worst = torch.maximum(squares, (v.clamp(old - clip_range, old + clip_range) - r) ** 2)
    loss = 0.5 * (w * worst).sum()
    with torch.no_grad():
        share = w / w.sum()
        variance = _variance(r, share)
        unexplained = _variance(r - v, share)
        metrics = {
            "value_error": (share * squares).sum(),
            "value_clip_fraction": (share * (worst > squares)).sum(),
            "explained_variance": torch.where(variance > 0, 1.0 - unexplained / variance, 0.0),
        }
    return loss, metrics


def _variance(x: Tensor, share: Tensor) -> Tensor:
    """Weighted population variance; `share` sums to 1."""
    return (share * (x - (share * x).sum()) ** 2).sum()
