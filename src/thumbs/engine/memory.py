"""How this process holds memory between steps."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

from thumbs.engine.plan import TOKEN_BUDGET
from thumbs.models.base import Trunk

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


LARGEST_BUDGET = 65_536
"""Tokens of a micro-batch beyond which a card gains nothing."""


def token_budget(trunk: Trunk, held: int) -> int:
    """Tokens of one micro-batch: what keeps two cores busy, or on a card what half of its memory holds.

    held: bytes of the device that weights, gradients and moments take. A token in 16 bits keeps about
    34 · width bytes per layer for the backward pass if attention keeps no scores (Korthikanti et al. 2022,
    arXiv:2205.05198, eq. 2 and section 5.2). The budget follows from the card and the model alone, not from what is
    free just now, so that a run that goes on after an interruption cuts its batches as before.
    """
    device = trunk.head_weight().device
    if device.type != "cuda":
        return TOKEN_BUDGET
    memory = torch.cuda.get_device_properties(device).total_memory
    return budget_within(memory - held, trunk.depth, trunk.width, trunk.dtype.itemsize)


def budget_within(memory: int, depth: int, width: int, itemsize: int) -> int:
    """Tokens of one micro-batch whose activations take half of so many bytes, at least a laptop's."""
    token = 17 * itemsize * width * depth
    return min(max(memory // 2 // token, TOKEN_BUDGET), LARGEST_BUDGET)
