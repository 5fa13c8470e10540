"""Eq. 16 of arXiv:1506.02438, as the sum that it is, for one row of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

Row = Sequence[float]


def gae_row(rewards: Row, values: Row, mask: Row, gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """Advantages and returns; what has mask 0 is taken out first and put back as 0."""
    kept = [t for t in range(len(mask)) if mask[t]]
    r, v = [rewards[t] for t in kept], [*(values[t] for t in kept), 0.0]
    deltas = [r[i] + gamma * v[i + 1] - v[i] for i in range(len(kept))]
    advantages, returns = [0.0] * len(mask), [0.0] * len(mask)
    for i, t in enumerate(kept):
        advantages[t] = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(kept)))
        returns[t] = advantages[t] + v[i]
    return advantages, returns
