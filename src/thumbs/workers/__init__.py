"""Objects that live in other processes: a crew starts them, and a call of a method gives a future."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from thumbs.config.named import Registry
from thumbs.workers.base import Crew

__all__ = ["CREWS"]

CREWS: Registry[Callable[[Path | None], Crew]] = Registry(
    "engine.launcher", {"pipes": "thumbs.workers.pipes:PipeCrew", "ray": "thumbs.workers.ray_actors:RayCrew"}
)
"""What starts workers: a function of the folder for their logs."""
