"""The losses, one element at a time, with math.* only."""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def clip(x: float, low: float, high: float) -> float:
    """x, or the bound that it passed."""
    if x < low:
        return low
    return high if x > high else x


def ppo_clip(logprobs: Row, old: Row, advantages: Row, weights: Row, c: float) -> float:
    """arXiv:1707.06347 eq. 7, negated: a minimum of gains becomes a maximum of losses."""
    total = 0.0
    for new_lp, old_lp, a, w in zip(logprobs, old, advantages, weights, strict=True):
        if w == 0:
            continue
        ratio = math.exp(new_lp) / math.exp(old_lp)
        total -= w * min(ratio * a, clip(ratio, 1 - c, 1 + c) * a)
    return total


def value_clip(values: Row, old: Row, returns: Row, weights: Row, c: float) -> float:
    """The PPO2 value loss."""
    total = 0.0
    for v, v_old, r, w in zip(values, old, returns, weights, strict=True):
        moved = v_old + clip(v - v_old, -c, c)
        total += 0.5 * w * max((v - r) ** 2, (moved - r) ** 2)
    return total


def bradley_terry(a: Row, b: Row, preferred: Row, margin: Row, weights: Row, center: float) -> float:
    """-log of the probability that a Bradley-Terry judge gives the verdict seen, plus the centring term."""
    total = 0.0
    for s, t, p, m, w in zip(a, b, preferred, margin, weights, strict=True):
        first = math.exp(s) / (math.exp(s) + math.exp(t + m))
        second = math.exp(t) / (math.exp(t) + math.exp(s + m))
        total += w * (-p * math.log(first) - (1 - p) * math.log(second) + center * (s + t) ** 2)
    return total
