"""Seeds of the lab without their models: gold falls in all but the last."""

from __future__ import annotations

from pathlib import Path

from thumbs.lab.constraint import Constrained
from thumbs.lab.overopt import Found


class Seeds:
    def run_seed(self, folder: Path, seed: int) -> Found:
        looks = [{"gold": g} for g in (-1.0, 1.0, 0.9 if seed == 2 else -2.0)]
        return Found(seed, (0.7, 0.6), looks, None if seed == 2 else 2, 1, 0.9, [(2.5, 0.5)])

    def clean_alarms(self, folder: Path, seed: int, draw: int) -> int:
        return 5 if (seed, draw) == (0, 2) else 0


class Limited:
    """Worlds of the constraint's lab without their models: RLOO misses the limit in the last one."""

    def train(self, folder: Path, seed: int, method: str, rule: str) -> Constrained:
        cost = 0.2 if (method, seed) == ("group", 1) or rule == "safe_rlhf" else 0.054
        return Constrained(seed, method, rule, 3.0, cost, 0.01, 3.1, 0.4, 0.9)
