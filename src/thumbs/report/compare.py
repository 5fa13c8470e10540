"""Methods of several runs on one plane: gold and proxy score against KL, and what each has at equal KL.

A method that moves farther from the reference earns more of whatever it is paid, so policies are compared where they
are equally far away (Gao et al. 2022, arXiv:2210.10760). The curve of a method begins at the reference, passes the
policies that it kept on its way (evaluation.frontier) and ends with its last one. Every number is that of a policy
whose replies were judged; there is none for what lies between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.config.pipeline import METHODS
from thumbs.errors import RunError
from thumbs.evaluation import statistics
from thumbs.evaluation.replies import column, table
from thumbs.report.charts import Line, Plane, draw
from thumbs.report.figures import Figure
from thumbs.report.page import render
from thumbs.report.record import RunRecord, read_run
from thumbs.tracking import write_text

MOVED = 0.1
"""Nats per sequence under which a policy is taken to be where it started."""
_COLOURS = ("ppo", "sft", "best_of_n", "direct", "group", "rejection", "base")
"""Colours of the curves, in order; then again dashed, then dotted."""


@dataclass(frozen=True)
class Place:
    """One evaluated policy: its name, KL (nats per sequence), gold score with its interval, proxy score (NaN: no reward
    model).
    """

    name: str
    kl: float
    gold: float
    low: float
    high: float
    proxy: float


@dataclass(frozen=True)
class Curve:
    """A method of a run, from the reference outwards; win_rate is that of its last policy, with its interval."""

    name: str
    places: tuple[Place, ...]
    win_rate: tuple[float, float, float] | None
    trained: bool = True

    @property
    def reach(self) -> float:
        """The largest KL of its policies."""
        return max(place.kl for place in self.places)

    def within(self, kl: float) -> Place | None:
        """The policy that went farthest of those at most `kl` nats away; None if none was measured there."""
        near = [place for place in self.places[1:] if place.kl <= kl]
        return max(near, key=lambda place: place.kl, default=None)


def compare(paths: Sequence[str | Path]) -> list[Curve]:
    """The curves of all methods of the runs.

    Raises RunError for a run without an evaluation, and for runs that were not judged alike: by another judge, on
    other prompts, or with other sampling.
    """
    runs = [read_run(path) for path in paths]
    for run in runs:
        if not run.evaluation:
            raise RunError(
                f"{run.path} has no evaluation; give its config the section `evaluation`, or `thumbs eval` it"
            )
        for key in ("judge", "prompts", "sampling"):
            ours, first = (_judged_by(r, key) for r in (run, runs[0]))
            if ours != first:
                raise RunError(
                    f"{run.path} and {runs[0].path} were not judged alike: evaluation.{key} is {ours!r} and {first!r}"
                )
    return [curve for run in runs for curve in _curves(run, named=len(runs) > 1)]


def paired(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Gold of each method's last policy less that of each other's, on the prompts that both answered: left, right, n
    (prompts), difference, low and high (a bootstrap over prompts), verdict. Empty where no replies were kept.
    """
    runs, found = [read_run(path) for path in paths], []
    tables = {
        f"{run.path.name} {method}" if len(runs) > 1 else method: {rows[0].prompt_id: rows for rows in replies}
        for run in runs
        for method in METHODS
        if (replies := table(run.replies, method))
    }
    for (left, ours), (right, theirs) in itertools.combinations(tables.items(), 2):
        shared = [prompt for prompt in ours if prompt in theirs]
        left_gold, right_gold = (column([side[prompt] for prompt in shared], "gold") for side in (ours, theirs))
        if shared and np.isfinite(left_gold).all() and np.isfinite(right_gold).all():
            gap = statistics.difference(left_gold, right_gold, runs[0].seed)
            numbers = {"difference": gap.value, "low": gap.low, "high": gap.high, "verdict": gap.verdict}
            found.append({"left": left, "right": right, "n": len(shared), **numbers})
    return found


def _judged_by(run: RunRecord, key: str) -> Any:
    """How a run was judged: what its evaluation says, which may have been asked for with settings of its own."""
    if key == "judge":
        return run.evaluation.get("judge")
    settings = run.evaluation.get("settings") or run.setting("evaluation") or {}
    return settings.get(key)


def common_reach(curves: Sequence[Curve]) -> float:
    """The largest KL that every trained method reached, those apart that hardly moved (nats); best-of-n, which cannot
    go far, counts if there is nothing else.
    """
    moved = [curve for curve in curves if curve.reach >= MOVED]
    return min((curve.reach for curve in [c for c in moved if c.trained] or moved), default=0.0)


def build_comparison(
    paths: Sequence[str | Path], out: Path, level: float | None = None
) -> list[tuple[Curve, Place | None]]:
    """Writes the page that shows the runs' methods on one plane; each with its measured policy that is
    nearest to `level` nats and not beyond.

    Without a level it is the largest KL that all reached. A method of which nothing was measured there has None.
    """
    curves = compare(paths)
    level = common_reach(curves) if level is None else level
    figures = [_figure(curves, level, *told) for told in (("Gold", "gold", "gold score"), ("Proxy", "proxy", "score"))]
    rows = [(curve, curve.places[-1], curve.within(level)) for curve in curves]
    runs = [str(path) for path in paths]
    content = {"rows": rows, "figures": figures, "level": level, "runs": runs, "paired": paired(paths)}
    write_text(out, render("compare.html.j2", content))
    return [(curve, curve.within(level)) for curve in curves]


def _figure(curves: Sequence[Curve], level: float, title: str, key: str, unit: str) -> Figure:
    lines = []
    for i, curve in enumerate(curves):
        colour, dash = _COLOURS[i % len(_COLOURS)], ("-", "--", ":")[i // len(_COLOURS) % 3]
        bounds = [(p.low, p.high) if key == "gold" else () for p in curve.places]
        points = [(max(p.kl, 0.0), getattr(p, key), *b) for p, b in zip(curve.places, bounds, strict=True)]
        lines.append(Line(curve.name, colour, points, "band", dash=dash))
    upright = ("compared", level) if level > 0 else None
    plane = Plane(
        "KL from the reference, nats per sequence", unit, f"{title} against KL", upright=upright, square_root=True,
        size="wide",
    )  # fmt: skip
    return Figure(title, "The policies that were measured, joined in order.", draw(plane, lines))


def _curves(run: RunRecord, *, named: bool) -> list[Curve]:
    systems: dict[str, Any] = run.evaluation.get("systems", {})
    reference = _place("reference", {**systems["sft" if "sft" in systems else "base"], "kl": 0.0})
    wins = run.evaluation.get("win_rates", {})
    curves = []
    for method in METHODS:
        if method not in systems:
            continue
        on_its_way = sorted(
            (k for k in systems if k.startswith(f"{method}@")), key=lambda k: float(k.partition("@")[2])
        )
        places = (reference, *(_place(key, systems[key]) for key in (*on_its_way, method)))
        win = wins.get(method)
        name = f"{run.path.name} {method}" if named else method
        curves.append(Curve(name, places, (win["rate"], win["low"], win["high"]) if win else None))
    if "best_of_n" in systems:
        name = f"{run.path.name} best of n" if named else "best of n"
        curves.append(Curve(name, (reference, _place("best of n", systems["best_of_n"])), None, trained=False))
    return curves


def _place(name: str, system: dict[str, Any]) -> Place:
    numbers = [system[key] for key in ("kl", "gold", "gold_low", "gold_high", "proxy")]
    return Place(name, *(math.nan if value is None else value for value in numbers))
