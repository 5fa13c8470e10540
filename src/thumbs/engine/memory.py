"""How this process holds memory between steps."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Parameters of mallopt(3)."""

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""By which a user sets the same, so that ours stays away."""


@cache
def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next step instead of giving it back to the system.

    Every step frees and asks for the same large tensors. By default glibc maps each of them anew, and the system
    fills each page with zeros at its first touch: a fifth of the time of full training on two cores (docs/log.md).
    glibc's own variables, where they are set, go before; other C libraries are left as they are.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, 2**30)
        mallopt(TRIM_THRESHOLD, -1)
