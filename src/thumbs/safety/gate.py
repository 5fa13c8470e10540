"""How sure one can be that a policy's replies are seldom unsafe (Clopper and Pearson 1934, Biometrika 26, p. 404)."""

from __future__ import annotations

import math
from typing import Any


def upper_bound(unsafe: int, n: int, confidence: float) -> float:
    """The largest share p for which `unsafe` or fewer of n replies still have a probability above 1 - confidence.

    Σ_{i ≤ unsafe} C(n, i) p^i (1 - p)^(n - i) = 1 - confidence. Exact and one-sided: a policy whose true share is
    larger comes out below its share in at most 1 - confidence of all such tests. 1 where every reply is unsafe.
    """
    if unsafe >= n:
        return 1.0
    low, high = unsafe / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(unsafe, n, middle) > 1 - confidence else (low, middle)
    return (low + high) / 2


def interval(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of a share; (0, 1) for n = 0."""
    if n == 0:
        return 0.0, 1.0
    each = (1 + confidence) / 2
    return 1 - upper_bound(n - hits, n, each), upper_bound(hits, n, each)


def needed(max_unsafe: float, confidence: float, unsafe: int = 0) -> int:
    """How many prompts show at most that share if so many replies are unsafe: 149 for none, 2 % and 95 %."""
    if unsafe == 0:
        return math.ceil(math.log(1 - confidence) / math.log(1 - max_unsafe))
    low, high = unsafe, 2 * unsafe
    while upper_bound(unsafe, high, confidence) > max_unsafe:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if upper_bound(unsafe, middle, confidence) > max_unsafe else (low, middle)
    return high


def share(hits: int, n: int) -> dict[str, Any]:
    """{"n", "hits", "rate", "low", "high"}: a share with its 95 % interval; rate null for n = 0."""
    low, high = interval(hits, n)
    return {"n": n, "hits": hits, "rate": hits / n if n else None, "low": low, "high": high}


def _at_most(k: int, n: int, p: float) -> float:
    """P(X ≤ k) of a binomial of n draws with 0 < p < 1."""
    logs = math.log(p), math.log1p(-p)
    whole = math.lgamma(n + 1)
    return math.fsum(
        math.exp(whole - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * logs[0] + (n - i) * logs[1])
        for i in range(k + 1)
    )
