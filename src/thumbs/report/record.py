"""What a run folder holds, read once for the report; whatever is missing is empty."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from thumbs.config.base import build_config
from thumbs.config.pipeline import METHODS, STAGES, PipelineConfig, place
from thumbs.errors import ConfigError
from thumbs.evaluation.benchmarks import FOLDER, BenchmarkScore, read_scores
from thumbs.evaluation.replies import REPLIES, EvaluatedReply, read
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.tracking import RunFolder, StageFolder, read_object_if_there
from thumbs.tracking.files import plain

_log = logging.getLogger(__name__)

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RunRecord:
    """A run folder in memory; `done` by stage, `metrics` and `alarms` by place (`ppo`, `iteration-2/ppo`), empty where
    the stage left nothing.

    labels: what the stage `labels` left in each iteration, where people judged: labels, pairs, by {name: labels};
    audit: that of the reward model which learned from them.
    """

    path: Path
    config: Mapping[str, Any]
    versions: Mapping[str, Any]
    summary: Mapping[str, Any]
    done: Mapping[str, Mapping[str, Any]]
    finished: frozenset[str]
    metrics: Mapping[str, Records]
    alarms: Mapping[str, Records]
    samples: Records
    evaluation: Mapping[str, Any]
    reward_audit: Mapping[str, Any]
    labels: Records
    safety: Mapping[str, Any]
    benchmarks: Sequence[BenchmarkScore]

    def seconds(self) -> dict[str, float]:
        """Computing time by place in the order of the run, from the summary or, meanwhile, from the metric logs."""
        told = {k.removeprefix("time_s."): v for k, v in self.summary.items() if k.startswith("time_s.")}
        logged = {place: records[-1].get("wall_s", 0.0) for place, records in self.metrics.items() if records}
        found, order = told or logged, list(self.metrics)
        return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return int(self.config.get("seed", 0))

    @cached_property
    def replies(self) -> Sequence[EvaluatedReply]:
        """Every reply of the evaluation; empty for one that kept none."""
        path = self.path / "evaluation" / REPLIES
        return read(path) if path.exists() else ()

    def places(self, stage: str) -> list[str]:
        """Where a stage left its log, an iteration each."""
        return [place for place, records in self.metrics.items() if place.rpartition("/")[2] == stage and records]

    def alarms_by_step(self, place: str) -> list[tuple[int, str]]:
        """(step, what looked wrong) of each step with alarms, in order."""
        found: dict[int, list[str]] = {}
        for row in self.alarms[place]:
            found.setdefault(row["step"], []).append(str(row.get("alarm", "")))
        return [(step, "; ".join(texts)) for step, texts in sorted(found.items())]

    def setting(self, dotted: str) -> Any:
        """A value of the config, None if it is not set."""
        value: Any = self.config
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_run(path: str | Path) -> RunRecord:
    """The run folder at `path`; raises RunError if there is none, CheckpointError for a garbled file."""
    path = Path(path)
    bring_up_to_date(path)
    config = _config(path)
    folders = {where: StageFolder(path / where) for where in _places(config)}
    return RunRecord(
        path=path,
        config=config,
        versions=_read(path / "versions.json"),
        summary=_read(path / "summary.json"),
        done={stage: _read(path / stage / "done.json") for stage in STAGES},
        finished=frozenset(where for where, folder in folders.items() if folder.is_done()),
        metrics={where: folder.metrics.read() for where, folder in folders.items()},
        alarms={where: folder.alarms.read() for where, folder in folders.items()},
        samples=next((found for method in METHODS if (found := folders[method].samples.read())), []),
        evaluation=_read(path / "evaluation" / "results.json"),
        reward_audit=_read(path / "reward_model" / "audit.json"),
        labels=_labels(path),
        safety=plain(_read(path / "safety" / "summary.json")),
        benchmarks=read_scores(path / FOLDER),
    )


def _places(config: Mapping[str, Any]) -> list[str]:
    """The folders of all stages in the order of the run."""
    iterations = range(1, int(config.get("iterations", 1)) + 1)
    return list(dict.fromkeys([*(place(stage, i) for i in iterations for stage in STAGES[:-1]), STAGES[-1]]))


def _config(run: Path) -> Mapping[str, Any]:
    """The settings; those that this version does not know are named in the log, and are not in the report."""
    found = RunFolder(run).settings()
    try:
        build_config(PipelineConfig, found, source=str(run / "config.json"))
    except ConfigError as error:
        for line in str(error).splitlines():
            if "unknown key" in line:
                _log.warning("%s", line)
    return found


def _labels(path: Path) -> Records:
    found = []
    for iteration in range(1, int(_read(path / "config.json").get("iterations", 1)) + 1):
        told = _read(path / place("labels", iteration) / "done.json")
        if "by" in told:
            found.append({**told, "audit": _read(path / place("reward_model", iteration) / "done.json").get("audit")})
    return found


def _read(path: Path) -> Mapping[str, Any]:
    value = read_object_if_there(path)
    return value if isinstance(value, Mapping) else {}
