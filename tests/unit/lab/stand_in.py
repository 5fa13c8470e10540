"""Seeds of the lab without their models: gold falls in all but the third, and a clean run raises an alarm."""

from __future__ import annotations

from pathlib import Path

from thumbs.lab.constraint import Constrained
from thumbs.lab.overopt import Arm, Ended


def ended(*gold: float, delivered: float = 0.9) -> Ended:
    looks = [
        {"watch/gold": g, "watch/proxy": float(i), "watch/second_proxy": 0.5, "watch/kl": float(i)}
        for i, g in enumerate(gold)
    ]
    return Ended(looks, [(2, "value")], 1, delivered)


class Seeds:
    def make_models(self, folder: Path, seed: int) -> tuple[tuple[float, float], list[dict[str, float]], float]:
        best = [
            {"n": n, "kl": kl, "gold": 0.5, "proxy": 0.1, "second_proxy": 0.2} for n, kl in ((1.0, 0.0), (32.0, 2.5))
        ]
        return (0.7, 0.6), best, 50.0

    def run_arm(self, folder: Path, seed: int, name: str, arm: Arm) -> tuple[Ended, float]:
        return ended(-1.0, 1.0, 0.9 if seed == 2 else -2.0), 10.0

    def clean_alarms(self, folder: Path, seed: int, draw: int) -> list[str]:
        return ["length", "kl"] if (seed, draw) == (0, 2) else []


class Limited:
    """Worlds of the constraint's lab without their models: RLOO misses the limit in the last one."""

    def train(self, folder: Path, seed: int, method: str, rule: str) -> Constrained:
        cost = 0.2 if (method, seed) == ("group", 1) or rule == "safe_rlhf" else 0.054
        return Constrained(seed, method, rule, 3.0, cost, 0.01, 3.1, 0.4, 0.9)
