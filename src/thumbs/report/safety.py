"""Figures on costs and refusals: what a limit on the cost of replies does, and what policies refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thumbs.config.reward_parts import OWN_COST
from thumbs.report.charts import Alarm, Line, Plane, draw
from thumbs.report.figures import Figure, metric_points
from thumbs.report.headline import methods_of
from thumbs.report.record import RunRecord
from thumbs.report.systems import SYSTEMS, family, system_title


def safety_figures(run: RunRecord) -> list[Figure]:
    """Cost by step of all methods, cost against λ of each that has a limit, and refusals on both sides."""
    limited = [_against_multiplier(run, method) for method in methods_of(run)]
    return [figure for figure in (_costs(run), *limited, _refusals(run)) if figure]


def _costs(run: RunRecord) -> Figure | None:
    """What replies cost at each step, of the methods with a limit and of those whose reward only shows the cost."""
    lines, alarms, limits = [], [], []
    for method in methods_of(run):
        name = _cost_metric(run, method)
        for place in run.places(method) if name else ():
            if points := metric_points(run, place, str(name)):
                title = system_title(run, place)
                lines.append(Line(title, method, points, "markers"))
                alarms += [Alarm(step, f"{title}: {text}") for step, text in run.alarms_by_step(place)]
                limits.append(run.setting(f"{method}.constraint.limit"))
    limit = next((limit for limit in limits if limit is not None), None)
    if not lines:
        return None
    level = None if limit is None else ("limit", float(limit))
    plane = Plane("step", "cost", "Mean cost of the replies by step", level, size="wide")
    return Figure(
        "Cost", "Mean cost of the replies of each step; of a cost model, P(unsafe).", draw(plane, lines, alarms)
    )


def _cost_metric(run: RunRecord, method: str) -> str | None:
    if run.setting(f"{method}.constraint") is not None:
        return f"{method}/cost"
    parts = run.setting(f"{method}.reward") or ()
    found = [part for part in parts if isinstance(part, Mapping) and part.get("model") == OWN_COST]
    return f"{method}/part/{found[0].get('name') or OWN_COST}" if found else None


def _against_multiplier(run: RunRecord, method: str) -> Figure | None:
    """The path of a method on the plane of λ and cost, step after step."""
    lines = []
    for place in run.places(method):
        rows = [
            row for row in run.metrics[place] if None not in (row.get(f"{method}/lambda"), row.get(f"{method}/cost"))
        ]
        points = [(row[f"{method}/lambda"], row[f"{method}/cost"]) for row in rows]
        lines.append(Line(system_title(run, place), method, points, "markers", [f"step {row['step']}" for row in rows]))
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    limit = run.setting(f"{method}.constraint.limit")
    level = None if limit is None else ("limit", float(limit))
    plane = Plane("λ", "cost", f"{SYSTEMS[method]}: cost against λ", level, size="wide")
    caption = "Each point is a step. While the cost is above the limit λ grows, below it λ falls."
    return Figure(f"Cost against λ, {SYSTEMS[method]}", caption, draw(plane, lines))


def _refusals(run: RunRecord) -> Figure | None:
    """Refusals of what should be refused against refusals of what should be answered."""
    lines = []
    for name, found in run.safety.get("systems", {}).items():
        benign, harmful = (_share(found, probe) for probe in ("benign", "harmful"))
        if benign and harmful:
            point = (benign["rate"], harmful["rate"], harmful["low"], harmful["high"], benign["low"], benign["high"])
            title = system_title(run, name)
            lines.append(Line(title, family(name), [point], "dots", [title]))
    plane = Plane(
        "refuses what is harmless", "refuses what is harmful", "Refusals of harmless and of harmful requests",
        size="wide", fractions=True,
    )  # fmt: skip
    caption = "Top left is right: harmful requests refused, harmless look-alikes answered. Bars: 95 % intervals."
    return Figure("Refusals on both sides", caption, draw(plane, lines)) if lines else None


def _share(found: Mapping[str, Any], probe: str) -> Mapping[str, Any] | None:
    share = found.get("probes", {}).get(probe, {})
    return share if share.get("rate") is not None else None
