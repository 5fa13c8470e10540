"""Token weights that turn the engine's sums into means, whatever the micro-batching.

All take the 0/1 masks [T_i] of every sequence of one optimizer step and give weights of the same shapes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def token_mean_weights(masks: Sequence[Tensor]) -> list[Tensor]:
    """Each masked token weighs 1 / (masked tokens of all sequences): long replies count more."""
    total = sum(float(mask.sum()) for mask in masks)
    return [mask / max(total, 1.0) for mask in masks]


def sequence_mean_weights(masks: Sequence[Tensor]) -> list[Tensor]:
    """Each masked token weighs 1 / (sequences · masked tokens of its own): every reply counts the same.

    A sequence without a masked token weighs nothing and is not counted.
    """
    sequences = max(sum(bool(mask.any()) for mask in masks), 1)
    return [mask / (sequences * max(float(mask.sum()), 1.0)) for mask in masks]


def length_mean_weights(masks: Sequence[Tensor], length: int) -> list[Tensor]:
    """Each masked token weighs 1 / (sequences · length), whatever the replies' own lengths.

    length: the most tokens that a reply may have (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783, section 3.1), or 1 for
    the mean over sequences of sums over tokens. A sequence without a masked token is not counted.
    """
    sequences = max(sum(bool(mask.any()) for mask in masks), 1)
    return [mask / (sequences * length) for mask in masks]
