"""The report of a run: one HTML file that needs no other file, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from markupsafe import Markup

from thumbs.config.pipeline import METHODS, STAGES
from thumbs.report.charts import Line, calibration_chart, curve_chart, frontier_chart
from thumbs.report.headline import headline_rows, headline_sentence, labels_sentence, methods_of
from thumbs.report.page import render
from thumbs.report.record import RunRecord, read_run
from thumbs.tracking import METRICS, write_text
from thumbs.tracking.files import plain

SYSTEMS = {
    "base": "Base",
    "sft": "SFT",
    "best_of_n": "Best of n",
    "direct": "Direct alignment",
    "ppo": "PPO",
    "group": "Group",
    "rejection": "Rejection sampling",
}
_STAGE_TITLES = {**SYSTEMS, "labels": "Labels", "reward_model": "Reward model", "evaluation": "Evaluation"}
_MOST_SAMPLES = 24
_MOST_MOMENTS = 12


class Figure(NamedTuple):
    """A chart and the line under it."""

    title: str
    caption: str
    chart: Markup


class Plot(NamedTuple):
    """What a training figure shows: the metric of each step and, where there is one, its held-out twin."""

    title: str
    metric: str
    heldout: str | None = None


_PLOTS = {
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
    ),
    "rejection": (
        Plot("Score", "rejection/score"),
        Plot("Score of what is kept", "rejection/kept_score"),
        Plot("Loss", "rejection/loss"),
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
    ),
}
_LEVELS = {"reward/accuracy": "chance", "ppo/kl": "target"}


def build_report(run: str | Path) -> Path:
    """Write report.html into the run folder and return its path; stages that did not run yet are named so.

    The file has no scripts and loads nothing. What models and users wrote is escaped, its direction isolated
    and its invisible characters shown. Raises RunError if `run` is not a run folder, CheckpointError for a
    garbled file in it.
    """
    record = read_run(run)
    path = record.path / "report.html"
    write_text(path, render("report.html.j2", _content(record)))
    return path


def _content(run: RunRecord) -> dict[str, Any]:
    seconds = run.seconds()
    return {
        "name": run.path.resolve().name,
        "created": run.versions.get("created", ""),
        "labels": labels_sentence(run),
        "sentence": headline_sentence(run),
        "rows": headline_rows(run),
        "stages": [(_STAGE_TITLES[s], _state(run, s)) for s in STAGES if run.setting(s) is not None or run.metrics[s]],
        "methods": [(method, _STAGE_TITLES[method]) for method in methods_of(run)],
        "figures_by_stage": {stage: _training_figures(run, stage) for stage in _PLOTS},
        "audit": run.done["reward_model"].get("audit"),
        "probes": run.reward_audit,
        "calibration": _calibration(run),
        "frontier": _frontier(run),
        "judge": run.evaluation.get("judge", "gold"),
        "systems": _systems(run),
        "samples": _samples(run),
        "timeline": _timeline(run),
        "times": [(_STAGE_TITLES.get(k, k), v, v / max(seconds.values())) for k, v in seconds.items() if v > 0],
        "total_s": sum(seconds.values()),
        "config": yaml.safe_dump(plain(run.config), sort_keys=False, allow_unicode=True),
        "versions": run.versions,
    }


def _state(run: RunRecord, stage: str) -> str:
    if stage in run.finished:
        return "done"
    records = run.metrics[stage]
    return f"at step {records[-1]['step']}" if records else "not run yet"


def _training_figures(run: RunRecord, stage: str) -> list[Figure]:
    figures = (_training_figure(run, stage, plot) for plot in _PLOTS[stage])
    return [figure for figure in figures if figure]


def _training_figure(run: RunRecord, stage: str, plot: Plot) -> Figure | None:
    colour = stage if stage in METHODS else "sft"
    lines = [Line("training", colour, _points(run, stage, plot.metric))]
    if plot.heldout:
        lines.append(Line("held out", "best_of_n", _points(run, stage, plot.heldout), "markers"))
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    metric = METRICS[plot.metric]
    about = f"{_STAGE_TITLES[stage]}: {plot.title.lower()} by step, in {metric.unit}"
    chart = curve_chart(lines, metric.unit, about, _level(run, plot.metric), wide=len(_PLOTS[stage]) < 3)
    return Figure(plot.title, metric.meaning, chart)


def _points(run: RunRecord, stage: str, name: str) -> list[tuple[float, float]]:
    """(step, value) of every record that has the metric; a value that was not finite is NaN."""
    records = run.metrics[stage]
    return [(r["step"], float("nan") if r[name] is None else r[name]) for r in records if name in r]


def _level(run: RunRecord, metric: str) -> tuple[str, float] | None:
    value = {"reward/accuracy": 0.5, "ppo/kl": run.setting("ppo.kl.target")}.get(metric)
    return (_LEVELS[metric], value) if value is not None else None


def _calibration(run: RunRecord) -> Markup | None:
    bins = run.done["reward_model"].get("audit", {}).get("bins")
    return calibration_chart(bins, "Reward model: observed against predicted preference") if bins else None


def _frontier(run: RunRecord) -> list[Figure]:
    points = [_frontier_point(run, point) for point in run.evaluation.get("frontier", ())]
    if not points:
        return []
    gold = frontier_chart(points, "gold", "gold score", "Gold score against KL from the SFT model")
    proxy = [{**point, "low": None, "high": None} for point in points]
    return [
        Figure("Gold", "Mean gold score with its 95 % interval.", gold),
        Figure(
            "Proxy",
            "Mean score of the reward model, which is what PPO optimises.",
            frontier_chart(proxy, "proxy", "reward-model score", "Proxy score against KL from the SFT model"),
        ),
    ]


def _frontier_point(run: RunRecord, point: Mapping[str, Any]) -> dict[str, Any]:
    name = str(point.get("name", ""))
    system = run.evaluation.get("systems", {}).get(name, {})
    label = "" if "@" in name else _system_title(run, name)
    interval = {"low": system.get("gold_low"), "high": system.get("gold_high")}
    return {**point, **interval, "family": _family(name), "label": label}


def _family(system: str) -> str:
    """What gives a system its colour: `ppo` for itself, for `ppo@2` on its way and for `iteration-2/ppo`."""
    name = system.rpartition("/")[2].partition("@")[0]
    return name if name in SYSTEMS else "ink"


def _systems(run: RunRecord) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(colour, title, numbers) of the evaluated systems in the order of the pipeline."""
    systems = run.evaluation.get("systems", {})
    keys = [key for key in SYSTEMS if key in systems] + [key for key in systems if "/" in key and "@" not in key]
    return [(_family(key), _system_title(run, key), systems[key]) for key in keys]


def _system_title(run: RunRecord, key: str) -> str:
    n = run.setting("evaluation.best_of")
    iteration, _, name = key.rpartition("/")
    title = f"Best of {n}" if key == "best_of_n" and n else SYSTEMS.get(name, name)
    return f"{title}, {iteration.replace('-', ' ')}" if iteration else title


def _samples(run: RunRecord) -> list[dict[str, Any]]:
    """Prompts with the replies of each system side by side."""
    rows = run.evaluation.get("samples", ())
    return [
        {
            "prompt": row["prompt"],
            "replies": [(_family(key), _system_title(run, key), row[key]) for key in row if key != "prompt"],
        }
        for row in rows[:_MOST_SAMPLES]
    ]


def _timeline(run: RunRecord) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """(prompt, its replies over the steps of the method), thinned to the first, the last and some between."""
    by_prompt: dict[str, list[Mapping[str, Any]]] = {}
    for sample in run.samples:
        by_prompt.setdefault(str(sample.get("prompt", "")), []).append(sample)
    return [(prompt, _spread(moments)) for prompt, moments in list(by_prompt.items())[:_MOST_SAMPLES]]


def _spread(moments: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    if len(moments) <= _MOST_MOMENTS:
        return moments
    return [moments[round(i * (len(moments) - 1) / (_MOST_MOMENTS - 1))] for i in range(_MOST_MOMENTS)]
