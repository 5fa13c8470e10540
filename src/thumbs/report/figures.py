"""The figures of the report: what each shows of a run, and its values as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

from thumbs.config.pipeline import METHODS
from thumbs.report.charts import Alarm, Chart, Line, Plane, draw
from thumbs.report.record import RunRecord
from thumbs.tracking import METRICS
from thumbs.web.tables import table_lines


@dataclass(frozen=True)
class Figure:
    """A chart with a title, and the line under it."""

    title: str
    caption: str
    chart: Chart

    @property
    def csv(self) -> str:
        """The table of its values as the address of a file, data:text/csv."""
        return f"data:text/csv;charset=utf-8,{quote(''.join(table_lines(self.chart.rows)), errors='replace')}"

    @property
    def file(self) -> str:
        """What that file is called."""
        return f"{re.sub('[^a-z0-9]+', '-', self.title.lower()).strip('-')}.csv"


class Plot(NamedTuple):
    """What a training figure shows: a metric by step and, where there is one, a second next to it."""

    title: str
    metric: str
    second: str | None = None
    names: tuple[str, str] = ("training", "held out")


_WATCH = (
    Plot("Proxy and second opinion", "watch/proxy", "watch/second_proxy", ("proxy", "second opinion")),
    Plot("Gap of the two", "watch/gap"),
    Plot("Value for the second opinion", "watch/value"),
    Plot("KL of a token on the watch set", "watch/kl_per_token"),
    Plot("Repetition on the watch set", "watch/repetition"),
    Plot("Replies that ended by themselves", "watch/ended"),
)
PLOTS = {
    "sft": (Plot("Loss", "sft/loss", "sft/heldout_loss"), Plot("Gradient norm", "sft/grad_norm")),
    "reward_model": (
        Plot("Loss", "reward/loss", "reward/heldout_loss"),
        Plot("Accuracy", "reward/accuracy", "reward/heldout_accuracy"),
        Plot("Score gap", "reward/score_gap"),
    ),
    "direct": (
        Plot("Loss", "preference/loss", "preference/heldout_loss"),
        Plot("Accuracy", "preference/accuracy", "preference/heldout_accuracy"),
        Plot("Margin", "preference/margin", "preference/heldout_margin"),
        Plot("Logprob of the chosen", "preference/chosen_logprob", "preference/heldout_chosen_logprob"),
        Plot("Logprob of the rejected", "preference/rejected_logprob", "preference/heldout_rejected_logprob"),
        *_WATCH,
    ),
    "ppo": (
        Plot("Score", "ppo/score"),
        Plot("Reward", "ppo/reward"),
        Plot("KL from the reference", "ppo/kl"),
        Plot("KL coefficient", "ppo/kl_coef"),
        Plot("Entropy", "ppo/entropy"),
        Plot("Reply length", "ppo/length"),
        Plot("Clip fraction", "ppo/clip_fraction"),
        Plot("Explained variance", "ppo/explained_variance"),
        Plot("Repetition", "ppo/repetition"),
        *_WATCH,
    ),
    "group": (
        Plot("Score", "group/score"),
        Plot("KL from the reference", "group/kl"),
        Plot("KL of a step", "group/approx_kl"),
        Plot("Entropy", "group/entropy"),
        Plot("Reply length", "group/length"),
        Plot("Clip fraction", "group/clip_fraction"),
        Plot("Groups without signal", "group/without_signal"),
        Plot("Repetition", "group/repetition"),
        *_WATCH,
    ),
    "rejection": (
        Plot("Score", "rejection/score"),
        Plot("Score of what is kept", "rejection/kept_score"),
        Plot("Loss", "rejection/loss"),
        *_WATCH,
    ),
}
"""The figures of each stage that trains, in the order of the pipeline."""
_KL = "KL from the SFT model, nats per sequence"


def training_figures(run: RunRecord, stage: str) -> list[Figure]:
    """The curves of a stage, its alarms marked on each of them."""
    figures = (_training_figure(run, stage, plot) for plot in PLOTS[stage])
    return [figure for figure in figures if figure]


def _training_figure(run: RunRecord, stage: str, plot: Plot) -> Figure | None:
    colour, metric = stage if stage in METHODS else "sft", METRICS[plot.metric]
    places = run.places(stage)
    lines, alarms = [], []
    for place, dash in zip(places, ("-", "--", ":") * len(places), strict=False):
        which = f", {place.partition('/')[0].replace('-', ' ')}" if "/" in place else ""
        name, second = (f"{part}{which}" for part in plot.names)
        lines.append(Line(name, colour, _points(run, place, plot.metric), dash=dash))
        if plot.second:
            held_out = _points(run, place, plot.second)
            lines.append(Line(second, "best_of_n", held_out, "markers", dash=dash))
        alarms += [Alarm(step, f"{text}{which}") for step, text in run.alarms_by_step(place)]
    if not any(line.points for line in lines):
        return None
    about = f"{stage.replace('_', ' ')}: {plot.title.lower()} by step, in {metric.unit}"
    level = {"reward/accuracy": ("chance", 0.5), "ppo/kl": ("target", run.setting("ppo.kl.target"))}.get(plot.metric)
    level = level if level and level[1] is not None else None
    plane = Plane("step", metric.unit, about, level, wide=len(PLOTS[stage]) < 3)
    return Figure(plot.title, metric.meaning, draw(plane, lines, alarms))


def _points(run: RunRecord, place: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of every record that has the metric; a value that was not finite is NaN."""
    return [(r["step"], float("nan") if r[name] is None else r[name]) for r in run.metrics[place] if name in r]


def calibration_figure(bins: Sequence[Mapping[str, Any]]) -> Figure | None:
    """How often the reward model's winner was the labelled one against how sure it was; None without pairs."""
    bins = [b for b in bins if b.get("n") and b.get("observed") is not None]
    if not bins:
        return None
    points = [(b["predicted"], b["observed"]) for b in bins]
    labels = [f"{b['n']} pairs" for b in bins]
    plane = Plane(
        "confidence in the winner", "fraction right", "Reward model: how often it was right against how sure it was",
        ("a coin", 0.5), diagonal=True, wide=True,
    )  # fmt: skip
    caption = (
        "On the diagonal, pairs of which the model is 80 % certain are ordered right 80 % of the time; below it the "
        "model is overconfident."
    )
    return Figure("Calibration", caption, draw(plane, [Line("bins", "sft", points, "markers", labels)]))


def frontier_figures(points: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Gold and proxy against KL. A point has family (a colour), line, title, kl, gold, proxy, low and high."""
    shown = [p for p in points if p.get("kl") is not None]
    return [
        Figure(
            title,
            caption,
            draw(
                Plane(_KL, unit, f"{title} against KL from the SFT model", square_root=True, wide=True),
                [line for f in dict.fromkeys(p["family"] for p in shown) if (line := _frontier_line(shown, f, key))],
            ),
        )
        for title, key, unit, caption in (
            ("Gold", "gold", "gold score", "Mean gold score with its 95 % interval."),
            ("Proxy", "proxy", "reward-model score", "Mean score of the reward model, which is what training sees."),
        )
    ]


def _frontier_line(points: Sequence[Mapping[str, Any]], family: str, key: str) -> Line | None:
    mine = sorted((p for p in points if p["family"] == family and p.get(key) is not None), key=lambda p: p["kl"])
    if not mine:
        return None
    bounds = [(p["low"], p["high"]) if key == "gold" and p.get("low") is not None else () for p in mine]
    whole = all(bounds)
    rows = [(max(p["kl"], 0.0), p[key], *(b if whole else ())) for p, b in zip(mine, bounds, strict=True)]
    kind = "band" if family in METHODS and len(rows) > 1 else "dots"
    return Line(mine[-1]["line"], family, rows, kind, [p["title"] for p in mine])
