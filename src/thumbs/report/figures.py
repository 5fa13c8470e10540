"""The figures of the report: what each shows of a run, and its values as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from thumbs.config.pipeline import METHODS
from thumbs.report.charts import Alarm, Chart, Line, Plane, draw
from thumbs.report.numbers import number
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
    Plot("Gold on the watch set", "watch/gold"),
    Plot("Gap of the two", "watch/gap"),
    Plot("Value for the second opinion", "watch/value"),
    Plot("KL of a token on the watch set", "watch/kl_per_token"),
    Plot("Repetition on the watch set", "watch/repetition"),
    Plot("Replies that ended by themselves", "watch/ended"),
)
_SCORER = (
    Plot("Loss", "reward/loss", "reward/heldout_loss"),
    Plot("Accuracy", "reward/accuracy", "reward/heldout_accuracy"),
    Plot("Score gap", "reward/score_gap"),
)
PLOTS = {
    "sft": (Plot("Loss", "sft/loss", "sft/heldout_loss"), Plot("Gradient norm", "sft/grad_norm")),
    "cost_model": _SCORER,
    "reward_model": _SCORER,
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
        Plot("Cost", "ppo/cost"),
        Plot("λ of the limit", "ppo/lambda"),
        Plot("Dropped by filters", "ppo/filtered"),
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
        Plot("Cost", "group/cost"),
        Plot("λ of the limit", "group/lambda"),
        Plot("Dropped by filters", "group/filtered"),
        *_WATCH,
    ),
    "rejection": (
        Plot("Score", "rejection/score"),
        Plot("Score of what is kept", "rejection/kept_score"),
        Plot("Loss", "rejection/loss"),
        Plot("Dropped by filters", "rejection/filtered"),
        *_WATCH,
    ),
}
"""The figures of each stage that trains, in the order of the pipeline."""


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
        lines.append(Line(name, colour, metric_points(run, place, plot.metric), dash=dash))
        if plot.second:
            held_out = metric_points(run, place, plot.second)
            lines.append(Line(second, "best_of_n", held_out, "markers", dash=dash))
        alarms += [Alarm(step, f"{text}{which}") for step, text in run.alarms_by_step(place)]
    if not any(line.points for line in lines):
        return None
    about = f"{stage.replace('_', ' ')}: {plot.title.lower()} by step, in {metric.unit}"
    plane = Plane(
        "step", metric.unit, about, _level(run, plot.metric), size="wide" if len(PLOTS[stage]) < 3 else "small"
    )
    return Figure(plot.title, metric.meaning, draw(plane, lines, alarms))


def _level(run: RunRecord, metric: str) -> tuple[str, float] | None:
    """What a metric is to be compared with."""
    if metric == "reward/accuracy":
        return "chance", 0.5
    setting = {
        "ppo/kl": ("target", "ppo.kl.target"),
        "ppo/cost": ("limit", "ppo.constraint.limit"),
        "group/cost": ("limit", "group.constraint.limit"),
        "ppo/lambda": ("max", "ppo.constraint.max"),
        "group/lambda": ("max", "group.constraint.max"),
    }.get(metric)
    value = None if setting is None else run.setting(setting[1])
    return None if setting is None or value is None else (setting[0], float(value))


def metric_points(run: RunRecord, place: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of every record that has the metric; a value that was not finite is NaN."""
    return [(r["step"], float("nan") if r[name] is None else r[name]) for r in run.metrics[place] if name in r]


def calibration_figure(
    bins: Sequence[Mapping[str, Any]],
    x: str = "confidence in the winner",
    y: str = "fraction right",
    model: str = "reward model",
    what: str = "pairs",
    level: tuple[str, float] = ("a coin", 0.5),
    usual: float | None = None,
) -> Figure | None:
    """What a model predicted against what was so, and where chance alone would put one that is calibrated; None
    without any bins of `what`. level: what stands next to it, a name and its share. usual: what 95 % of such samples of
    a calibrated model stay under, if that was measured already.
    """
    bins = [b for b in bins if b.get("n") and b.get("observed") is not None]
    if not bins:
        return None
    n, sure, right = (np.array([b[key] for b in bins], dtype=float) for key in ("n", "predicted", "observed"))
    # What the numbers of pairs allow: bins of a calibrated model, drawn again and again.
    drawn = np.random.default_rng(0).binomial(n.astype(int), np.clip(sure, 0, 1), (4000, len(bins))) / n
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    errors = (np.abs(drawn - sure) * n).sum(axis=1) / n.sum()
    ours = float((np.abs(right - sure) * n).sum() / n.sum())
    usual = float(np.quantile(errors, 0.95)) if usual is None else usual
    labels = [f"{int(count)} {what}" for count in n]
    lines = [
        Line("calibrated, by chance", "muted", np.stack([sure, sure, low, high], axis=1).tolist(), "band", labels, ":"),
        Line(model, "sft", np.stack([sure, right], axis=1).tolist(), "markers", labels),
    ]
    plane = Plane(x, y, f"Calibration of the {model}: {y} against {x}", level, size="wide")
    caption = (
        f"Dotted, with the range of 95 %: where a calibrated model would be with so few {what}. Expected calibration "
        f"error {number(ours)}; a calibrated model would stay under {number(usual)} in 95 % of such samples."
    )
    return Figure("Calibration", caption, draw(plane, lines))
