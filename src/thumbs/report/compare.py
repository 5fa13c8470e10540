"""Methods of several runs on one plane: gold and proxy score against KL, and what each has at equal KL.

A method that moves farther from the reference earns more of whatever it is paid, so policies are compared where they
are equally far away (Gao et al. 2022, arXiv:2210.10760). The curve of a method begins at the reference, passes the
policies that it kept on its way (evaluation.frontier) and ends with its last one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thumbs.config.pipeline import METHODS
from thumbs.errors import RunError
from thumbs.report.charts import compared_chart
from thumbs.report.page import render
from thumbs.report.record import RunRecord, read_run
from thumbs.tracking import write_text

MOVED = 0.1
"""Nats per sequence under which a policy is taken to be where it started."""


@dataclass(frozen=True)
class Place:
    """One evaluated policy: KL (nats per sequence), gold score with its interval, proxy score (NaN: no reward
    model).
    """

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

    @property
    def reach(self) -> float:
        """The largest KL of its policies."""
        return max(place.kl for place in self.places)

    def at(self, kl: float) -> Place | None:
        """The policy at `kl` nats, between its neighbours on a straight line; None beyond `reach`."""
        places = sorted(self.places, key=lambda place: place.kl)
        for before, after in itertools.pairwise(places):
            if before.kl <= kl <= after.kl:
                share = (kl - before.kl) / (after.kl - before.kl) if after.kl > before.kl else 1.0
                mixed = {k: (1 - share) * v + share * getattr(after, k) for k, v in vars(before).items()}
                return Place(**mixed)
        return None


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
            ours, first = (r.setting(f"evaluation.{key}") for r in (run, runs[0]))
            if ours != first:
                raise RunError(
                    f"{run.path} and {runs[0].path} were not judged alike: evaluation.{key} is {ours!r} and {first!r}"
                )
    return [curve for run in runs for curve in _curves(run, named=len(runs) > 1)]


def common_reach(curves: Sequence[Curve]) -> float:
    """The largest KL that every method reached, those apart that hardly moved: there they can be compared (nats)."""
    return min((curve.reach for curve in curves if curve.reach >= MOVED), default=0.0)


def build_comparison(
    paths: Sequence[str | Path], out: Path, level: float | None = None
) -> list[tuple[Curve, Place | None]]:
    """Writes the page that shows the runs' methods on one plane; each with its policy at `level` nats.

    None is the largest KL that all reached. A method that did not reach the level has none there.
    """
    curves = compare(paths)
    level = common_reach(curves) if level is None else level
    charts = [
        (title, compared_chart([(c.name, [(p.kl, getattr(p, key)) for p in c.places]) for c in curves], unit, level))
        for title, key, unit in (("Gold", "gold", "gold score"), ("Proxy", "proxy", "reward-model score"))
    ]
    rows = [(curve, curve.places[-1], curve.at(level)) for curve in curves]
    runs = [str(path) for path in paths]
    write_text(out, render("compare.html.j2", {"rows": rows, "charts": charts, "level": level, "runs": runs}))
    return [(curve, curve.at(level)) for curve in curves]


def _curves(run: RunRecord, *, named: bool) -> list[Curve]:
    systems: dict[str, Any] = run.evaluation.get("systems", {})
    reference = _place({**systems["sft" if "sft" in systems else "base"], "kl": 0.0})
    wins = run.evaluation.get("win_rates", {})
    curves = []
    for method in METHODS:
        if method not in systems:
            continue
        on_its_way = sorted(
            (k for k in systems if k.startswith(f"{method}@")), key=lambda k: float(k.partition("@")[2])
        )
        places = (reference, *(_place(systems[key]) for key in (*on_its_way, method)))
        win = wins.get(method)
        name = f"{run.path.name} {method}" if named else method
        curves.append(Curve(name, places, (win["rate"], win["low"], win["high"]) if win else None))
    if "best_of_n" in systems:
        name = f"{run.path.name} best of n" if named else "best of n"
        curves.append(Curve(name, (reference, _place(systems["best_of_n"])), None))
    return curves


def _place(system: dict[str, Any]) -> Place:
    proxy = system["proxy"]
    return Place(
        system["kl"], system["gold"], system["gold_low"], system["gold_high"], math.nan if proxy is None else proxy
    )
