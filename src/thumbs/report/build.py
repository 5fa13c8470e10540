"""The report of a run: one HTML file that needs no other file, made from the run folder alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from thumbs.config.pipeline import STAGES
from thumbs.evaluation.results import BEST_OF_N
from thumbs.report.evidence import not_shown, shown
from thumbs.report.figures import PLOTS, Figure, calibration_figure, training_figures
from thumbs.report.frontier import frontier_figures
from thumbs.report.headline import decides, headline_rows, judged_by, labels_sentence, methods_of
from thumbs.report.page import render
from thumbs.report.record import RunRecord, read_run
from thumbs.report.safety import safety_figures
from thumbs.report.systems import SYSTEMS, family, ordered_systems, system_title
from thumbs.tracking import write_text
from thumbs.tracking.files import plain

_STAGE_TITLES = {
    **SYSTEMS,
    "cost_model": "Cost model",
    "labels": "Labels",
    "reward_model": "Reward model",
    "evaluation": "Evaluation",
}
_MOST_SAMPLES = 24
_MOST_MOMENTS = 12


def build_report(run: str | Path) -> Path:
    """Write report.html into the run folder and return its path; stages that did not run yet are named so.

    The file loads nothing, and its one script, which shows values on demand, is allowed by its digest alone. What
    models and users wrote is escaped, its direction isolated and its invisible characters shown. Raises RunError if
    `run` is not a run folder, CheckpointError for a garbled file in it.
    """
    path = Path(run) / "report.html"
    write_text(path, build_page(run))
    return path


def build_page(run: str | Path, *, live: bool = False) -> str:
    """The report as HTML; a live one asks its server for a newer one again and again."""
    return render("report.html.j2", {**_content(read_run(run)), "live": live})


def _content(run: RunRecord) -> dict[str, Any]:
    seconds = run.seconds()
    return {
        "name": run.path.resolve().name,
        "created": run.versions.get("created", ""),
        "labels": labels_sentence(run),
        "decides": decides(run),
        "judged_by": judged_by(run),
        "shown": shown(run),
        "not_shown": not_shown(run),
        "comparisons": _comparisons(run),
        "win_rates": [(system_title(run, k), plain(win)) for k, win in run.evaluation.get("win_rates", {}).items()],
        "rows": headline_rows(run),
        "stages": [(_STAGE_TITLES[s], _state(run, s)) for s in STAGES if run.setting(s) is not None or run.metrics[s]],
        "alarms": {place: found for place in run.alarms if (found := run.alarms_by_step(place))},
        "methods": [(method, _STAGE_TITLES[method]) for method in methods_of(run)],
        "figures_by_stage": {stage: training_figures(run, stage) for stage in PLOTS},
        "audit": plain(run.done["reward_model"].get("audit")),
        "asked": {stage for stage in STAGES if run.setting(stage) is not None or run.places(stage)},
        "probes": run.reward_audit,
        "calibration": calibration_figure(run.done["reward_model"].get("audit", {}).get("bins", ())),
        "frontier": frontier_figures(run),
        "safety_figures": safety_figures(run),
        "safety": [(system_title(run, name), found) for name, found in run.safety.get("systems", {}).items()],
        "cost_audit": _cost_audit(run),
        "cost_calibration": _cost_calibration(_cost_audit(run)),
        "benchmarks": [(system_title(run, score.system), score) for score in run.benchmarks],
        "warnings": run.evaluation.get("warnings", ()),
        "systems": ordered_systems(run),
        "evaluates": run.setting("evaluation") is not None or bool(run.evaluation),
        "samples": _samples(run),
        "timeline": _timeline(run),
        "times": [(_place_title(k), v, v / max(seconds.values())) for k, v in seconds.items() if v > 0],
        "total_s": sum(seconds.values()),
        "config": yaml.safe_dump(plain(run.config), sort_keys=False, allow_unicode=True),
        "versions": run.versions,
    }


def _cost_audit(run: RunRecord) -> Mapping[str, Any]:
    return plain(run.done.get("cost_model", {}).get("calibration", {}))


def _cost_calibration(audit: Mapping[str, Any]) -> Figure | None:
    told = ("P(unsafe)", "share that was unsafe", "cost model", "replies")
    level, usual = ("the mean alone", audit.get("unsafe", 0.5)), audit.get("ece_by_chance_high")
    return calibration_figure(audit.get("bins", ()), *told, level, usual)


def _state(run: RunRecord, stage: str) -> str:
    if stage in run.finished:
        return "done"
    records = run.metrics[stage]
    return f"at step {records[-1]['step']}" if records else "not run yet"


def _place_title(place: str) -> str:
    iteration, _, stage = place.rpartition("/")
    title = _STAGE_TITLES.get(stage, stage)
    return f"{title}, {iteration.replace('-', ' ')}" if iteration else title


def _comparisons(run: RunRecord) -> list[dict[str, Any]]:
    """The paired differences, the deciding one first."""
    found = run.evaluation.get("comparisons", ())
    return [{**row, "left": system_title(run, row["left"]), "right": _right(run, row)} for row in found]


def _right(run: RunRecord, row: Mapping[str, Any]) -> str:
    return f"Best of {row['n']}" if row["right"] == BEST_OF_N else system_title(run, row["right"])


def _samples(run: RunRecord) -> list[dict[str, Any]]:
    """Prompts with the replies of each system side by side."""
    rows = run.evaluation.get("samples", ())
    return [
        {
            "prompt": row["prompt"],
            "replies": [(family(key), system_title(run, key), row[key]) for key in row if key != "prompt"],
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
