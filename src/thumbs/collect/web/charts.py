"""The numbers of the team's figures, which templates/admin/charts.html draws."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A chart's column: its name below (empty: none), its height, what is said of it, and the class that colours it."""

    name: str
    value: float
    about: str
    kind: str = ""


def round_up(value: float) -> float:
    """The least of 1, 2, 4 and 5 times a power of ten that is not below `value`; 1 for none."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 10) if power * step >= value * (1 - 1e-12))
