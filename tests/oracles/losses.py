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


def ppo_clip(logprobs: Row, old: Row, advantages: Row, weights: Row, clip_range: float) -> float:
    """arXiv:1707.06347 eq. 7, negated: a minimum of gains becomes a maximum of losses."""
    total = 0.0
    for new_lp, old_lp, a, w in zip(logprobs, old, advantages, weights, strict=True):
        if w == 0:
            continue
        ratio = math.exp(new_lp) / math.exp(old_lp)
        total -= w * min(ratio * a, clip(ratio, 1 - clip_range, 1 + clip_range) * a)
    return total


def importance_sampling(logprobs: Row, old: Row, advantages: Row, weights: Row) -> float:
    """The probability ratio times the advantage, negated."""
    rows = zip(logprobs, old, advantages, weights, strict=True)
    return -sum(w * math.exp(new) / math.exp(q) * a for new, q, a, w in rows)


def cispo(logprobs: Row, old: Row, advantages: Row, weights: Row, clip_range: float, clip_range_high: float) -> float:
    """arXiv:2506.13585 eq. 4 without its normaliser, negated."""
    rows, low, high = zip(logprobs, old, advantages, weights, strict=True), 1 - clip_range, 1 + clip_range_high
    return -sum(w * clip(math.exp(new) / math.exp(q), low, high) * a * new for new, q, a, w in rows)


def dro(logprobs: Row, old: Row, advantages: Row, weights: Row, beta: float) -> float:
    """The gain less half the squared log-ratio, negated."""
    rows = zip(logprobs, old, advantages, weights, strict=True)
    return -sum(w * (a * new - beta / 2 * (new - q) ** 2) for new, q, a, w in rows)


def gspo(
    sequences: Sequence[tuple[Row, Row, Row, Row, Row]], low: float, high: float, frozen: Sequence[Row] | None = None
) -> float:
    """arXiv:2507.18071 eq. 14 over (logprobs, old, advantages, weights, mask) of each sequence, negated.

    `frozen`: the logprobs that the stop-gradient holds; by default the logprobs themselves.
    """
    total = 0.0
    for number, (logprobs, old, advantages, weights, mask) in enumerate(sequences):
        held = logprobs if frozen is None else frozen[number]
        counted = [new - q for new, q, m in zip(held, old, mask, strict=True) if m]
        log_s = sum(counted) / len(counted) if counted else 0.0
        for new, fixed, a, w in zip(logprobs, held, advantages, weights, strict=True):
            ratio = math.exp(log_s) * math.exp(new) / math.exp(fixed)
            total -= w * min(ratio * a, clip(ratio, low, high) * a)
    return total


def value_clip(values: Row, old: Row, returns: Row, weights: Row, c: float) -> float:
    """The PPO2 value loss."""
    total = 0.0
    for v, v_old, r, w in zip(values, old, returns, weights, strict=True):
        moved = v_old + clip(v - v_old, -c, c)
        total += 0.5 * w * max((v - r) ** 2, (moved - r) ** 2)
    return total


def bradley_terry(better: float, worse: float, margin: float) -> float:
    """-log of the probability that a Bradley-Terry judge prefers the better one by the margin."""
    return -math.log(math.exp(better) / (math.exp(better) + math.exp(worse + margin)))
