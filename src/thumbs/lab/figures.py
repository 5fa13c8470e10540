"""The page of the experiments with over-optimisation: gold and both proxies against √KL, an arm a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from thumbs.lab.overopt import ARMS, Arm, Found
from thumbs.lab.verdicts import Requirement
from thumbs.report.charts import Line, Plane, draw
from thumbs.report.figures import Figure
from thumbs.report.page import render
from thumbs.tracking.files import write_text

WIDTH = 0.25
"""Looks whose √KL lies in the same interval of this width are one point, √nats."""
SHOWN = (("gold", "gold", "ppo"), ("proxy", "proxy", "sft"), ("second proxy", "second_proxy", "rejection"))
"""What is drawn: its name, its key, its colour."""
_KL = "KL from the start, nats per sequence"


def write_page(
    folder: Path, found: Sequence[Found], required: Sequence[Requirement], arms: Mapping[str, Arm] = ARMS
) -> Path:
    """Writes overopt.html: what is required and found, a figure for best-of-n and for each arm, and all seeds."""
    figures = [best_of_n_figure(found), *(arm_figure(found, name, arm) for name, arm in arms.items())]
    write_text(folder / "overopt.html", render("overopt.html.j2", {
        "required": required, "figures": figures, "found": found, "arms": arms,
    }))  # fmt: skip
    return folder / "overopt.html"


def arm_figure(found: Sequence[Found], name: str, arm: Arm) -> Figure:
    """An arm of all seeds."""
    looks = [look for one in found for look in one.arms[name].looks]
    lines = [Line(title, colour, points(looks, f"watch/{key}"), "band") for title, key, colour in SHOWN]
    plane = Plane(_KL, "score", f"{arm.title}: gold and proxies against KL", square_root=True, size="wide")
    caption = f"{len(found)} seeds; means of looks at about the same distance, areas from the lowest to the highest."
    return Figure(arm.title, caption, draw(plane, lines))


def best_of_n_figure(found: Sequence[Found]) -> Figure:
    """Best-of-n by the proxy, for each n over all seeds."""
    lines = []
    for title, key, colour in SHOWN:
        columns = np.array([[at[key] for at in one.best_of_n] for one in found])
        kl = [at["kl"] for at in found[0].best_of_n]
        rows = zip(kl, columns.mean(axis=0), columns.min(axis=0), columns.max(axis=0), strict=True)
        lines.append(Line(title, colour, [tuple(map(float, row)) for row in rows], "band"))
    plane = Plane(_KL, "score", "Best of n: gold and proxies against KL", square_root=True, size="wide")
    numbers = ", ".join(f"{at['n']:.0f}" for at in found[0].best_of_n)
    caption = f"Best of {numbers} by the proxy; the KL is its bound. Areas from the lowest seed to the highest."
    return Figure("Best of n", caption, draw(plane, lines))


def points(looks: Sequence[Mapping[str, float]], key: str) -> list[tuple[float, float, float, float]]:
    """(mean KL, mean, lowest, highest) of the looks in each interval of √KL, from near to far; a KL below 0 is 0."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for look in looks:
        kl = max(look["watch/kl"], 0.0)
        bins.setdefault(int(math.sqrt(kl) / WIDTH), []).append((kl, look[key]))
    found = []
    for _, members in sorted(bins.items()):
        (kl, values) = np.array(members).T
        found.append((float(kl.mean()), float(values.mean()), float(values.min()), float(values.max())))
    return found
