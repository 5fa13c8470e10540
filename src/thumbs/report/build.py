"""The report of a run: one HTML file that needs no other file, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from thumbs.config.pipeline import STAGES
from thumbs.report.figures import PLOTS, Figure, calibration_figure, frontier_figures, training_figures
from thumbs.report.headline import headline_rows, headline_sentence, labels_sentence, methods_of
from thumbs.report.page import render
from thumbs.report.record import RunRecord, read_run
from thumbs.tracking import write_text
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


def build_report(run: str | Path) -> Path:
    """Write report.html into the run folder and return its path; stages that did not run yet are named so.

    The file loads nothing, and its one script, which shows values on demand, is allowed by its digest alone. What
    models and users wrote is escaped, its direction isolated and its invisible characters shown. Raises RunError if
    `run` is not a run folder, CheckpointError for a garbled file in it.
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
        "alarms": {place: found for place in run.alarms if (found := run.alarms_by_step(place))},
        "methods": [(method, _STAGE_TITLES[method]) for method in methods_of(run)],
        "figures_by_stage": {stage: training_figures(run, stage) for stage in PLOTS},
        "audit": run.done["reward_model"].get("audit"),
        "probes": run.reward_audit,
        "calibration": calibration_figure(run.done["reward_model"].get("audit", {}).get("bins", ())),
        "frontier": _frontier(run),
        "judge": run.evaluation.get("judge", "gold"),
        "systems": _systems(run),
        "samples": _samples(run),
        "timeline": _timeline(run),
        "times": [(_place_title(k), v, v / max(seconds.values())) for k, v in seconds.items() if v > 0],
        "total_s": sum(seconds.values()),
        "config": yaml.safe_dump(plain(run.config), sort_keys=False, allow_unicode=True),
        "versions": run.versions,
    }


def _state(run: RunRecord, stage: str) -> str:
    if stage in run.finished:
        return "done"
    records = run.metrics[stage]
    return f"at step {records[-1]['step']}" if records else "not run yet"


def _frontier(run: RunRecord) -> list[Figure]:
    systems = run.evaluation.get("systems", {})
    points = [
        {
            "family": _family(name),
            "line": _system_title(run, _family(name)),
            "title": _system_title(run, name),
            "kl": s.get("kl"),
            "gold": s.get("gold"),
        }
        | {"proxy": s.get("proxy"), "low": s.get("gold_low"), "high": s.get("gold_high")}
        for name, s in systems.items()
        if name != "base"  # so far away that the others would be one spot
    ]
    return frontier_figures(points) if points else []


def _place_title(place: str) -> str:
    iteration, _, stage = place.rpartition("/")
    title = _STAGE_TITLES.get(stage, stage)
    return f"{title}, {iteration.replace('-', ' ')}" if iteration else title


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
    name, _, level = name.partition("@")
    title = f"Best of {n}" if name == "best_of_n" and n else SYSTEMS.get(name, name)
    title += f" at {level} nats" if level else ""
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
