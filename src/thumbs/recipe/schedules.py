"""Learning rate schedules."""

from __future__ import annotations

import math
from typing import Literal

from thumbs.errors import ConfigError

LRSchedule = Literal["linear", "cosine", "constant"]


def compute_schedule_lr_multiplier(lr_schedule: str, step: int, total_steps: int) -> float:
    """Factor of the learning rate at `step` of `total_steps`: from 1 towards 0, or 1 throughout."""
    progress = step / total_steps
    match lr_schedule:
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "constant":
            return 1.0
    raise ConfigError(f"lr_schedule={lr_schedule!r}; it can be 'linear', 'cosine' or 'constant'")
