"""How often one may ask: token buckets, in this process's memory."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException

_MOST_KEYS = 20_000


class Buckets:
    """A bucket for each key: `burst` at once, then `rate` a second. Thread-safe."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: dict[Hashable, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> None:
        """Takes one; raises HTTPException 429, which says when to come back, where none is left."""
        with self._lock:
            now = self._clock()
            if len(self._left) >= _MOST_KEYS:
                self._forget(now)
            left, then = self._left.get(key, (float(self._burst), now))
            left = min(self._burst, left + (now - then) * self._rate)
            self._left[key] = (max(left - 1, 0.0) if left >= 1 else left, now)
        if left < 1:
            wait = max(1, math.ceil((1 - left) / self._rate))
            raise HTTPException(429, f"too many requests; try again in {wait} s", {"Retry-After": str(wait)})

    def _forget(self, now: float) -> None:
        """Drops the buckets that are full again, or all: many keys at once are an attack, not people."""
        kept = {k: (n, t) for k, (n, t) in self._left.items() if n + (now - t) * self._rate < self._burst}
        self._left = kept if len(kept) < _MOST_KEYS else {}


@dataclass(frozen=True)
class Limits:
    """The buckets of a site. A person who judges with a key a task stays far below those of an account."""

    account: Buckets = field(default_factory=lambda: Buckets(60, 600))
    address: Buckets = field(default_factory=lambda: Buckets(20, 400))
    """Of requests that nobody is logged in for."""
    door: Buckets = field(default_factory=lambda: Buckets(0.5, 60))
    """Logins, invitations and entry links, by address; a class or an office may share one."""
    newcomers: Buckets = field(default_factory=lambda: Buckets(1 / 60, 60))
    """Accounts that entry links make, by address."""
    handle: Buckets = field(default_factory=lambda: Buckets(0.2, 15))
    """Passwords tried, by account name."""
