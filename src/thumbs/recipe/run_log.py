"""What a recipe leaves in its log folder: config.json, metrics.jsonl, checkpoints.jsonl, and where to go on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from thumbs.recipe.configs import describe
from thumbs.recipe.futures import resolved
from thumbs.tracking import StepLog, write_json

Kind = Literal["state", "sampler", "both"]


@dataclass(frozen=True)
class CheckpointRecord:
    """One line of checkpoints.jsonl; `epoch` and `batch` say which batch runs next, `step` how many have run."""

    name: str
    batch: int
    step: int = 0
    epoch: int = 0
    final: bool = False
    state_path: str | None = None
    sampler_path: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_line(cls, line: Mapping[str, Any]) -> CheckpointRecord:
        """The record of a line; keys that are no field go to `extra`."""
        known = {item.name for item in fields(cls)} - {"extra"}
        own = {key: value for key, value in line.items() if key in known}
        return cls(**own, extra={key: value for key, value in line.items() if key not in known})

    def to_line(self) -> dict[str, Any]:
        """The line, without fields that are None."""
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in ("extra", "step")}
        return {**{key: value for key, value in own.items() if value is not None}, **self.extra}


def get_last_checkpoint(log_dir: str | Path, required_key: str = "state_path") -> CheckpointRecord | None:
    """The newest record of a log folder that has `required_key`; None where there is none."""
    lines = StepLog(Path(log_dir).expanduser() / "checkpoints.jsonl").read()
    return next((CheckpointRecord.from_line(line) for line in reversed(lines) if line.get(required_key)), None)


class RunLog:
    """The files of a log folder; `last` is the checkpoint to go on from, None where a run begins."""

    def __init__(self, log_path: str) -> None:
        self.folder = Path(log_path).expanduser()
        self.last = get_last_checkpoint(self.folder)
        self._metrics = StepLog(self.folder / "metrics.jsonl")
        self._rollouts = StepLog(self.folder / "rollouts.jsonl")
        self._checkpoints = StepLog(self.folder / "checkpoints.jsonl")

    @property
    def first_step(self) -> int:
        """Number of steps that have run before."""
        return self.last.step if self.last else 0

    def start(self, config: Any) -> None:
        """Write config.json, and drop the metrics of the steps that are run again.

        So the files of a resumed run read like those of an uninterrupted one.
        """
        self._metrics.truncate_after(self.first_step - 1)
        self._rollouts.truncate_after(self.first_step - 1)
        write_json(self.folder / "config.json", describe(config))

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step, counted from 0."""
        self._metrics.append(step, metrics)

    def log_rollouts(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append the episodes of a step to rollouts.jsonl."""
        for row in rows:
            self._rollouts.append(step, describe(row))

    def add_checkpoint(self, record: CheckpointRecord) -> None:
        """Append a record, once what it names is saved."""
        self._checkpoints.append(record.step, record.to_line())


class Checkpointer:
    """Saves a training client when its config says so, and records each save."""

    def __init__(self, client: Any, log: RunLog, config: Any, extra: Mapping[str, Any] | None = None) -> None:
        self._client, self._log, self._config = client, log, config
        self._extra = dict(extra or {})
        self._saved_at_s = time.monotonic()
        self._tokens = 0
        self._rolling = False

    def is_due(self, step: int, tokens: int = 0) -> bool:
        """Whether to save once `step` steps have run, the newest over so many tokens. Asked once for each step."""
        config = self._config
        self._tokens += tokens
        periodic = (
            _is_multiple(step, config.save_every)
            or 0 < getattr(config, "save_every_tokens", 0) <= self._tokens
            or 0 < getattr(config, "save_every_seconds", 0) <= time.monotonic() - self._saved_at_s
        )
        self._rolling = not periodic and _is_multiple(step, config.rolling_save_every)
        return periodic or self._rolling

    async def save_due(self, step: int, epoch: int, batch: int) -> None:
        """Save what `is_due` has announced; `batch` of `epoch` runs next."""
        if self._rolling:
            record = CheckpointRecord(f"rolling-{step:06d}", batch, step, epoch)
            await self._save(record, "state", self._config.rolling_ttl_seconds)
        else:
            await self._save(CheckpointRecord(f"{step:06d}", batch, step, epoch), "both", self._config.ttl_seconds)
            self._saved_at_s, self._tokens = time.monotonic(), 0

    async def save_final(self, step: int, epoch: int, batch: int) -> None:
        """Save for good."""
        await self._save(CheckpointRecord(f"final-{step:06d}", batch, step, epoch, final=True), "both", None)

    async def _save(self, record: CheckpointRecord, kind: Kind, ttl_seconds: int | None) -> None:
        paths = await save_checkpoint(self._client, record.name, kind, ttl_seconds)
        self._log.add_checkpoint(replace(record, **paths, extra=self._extra))


def _is_multiple(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


async def reference_path(client: Any, run: RunLog) -> dict[str, str]:
    """The path of the policy as it was when the run began, as the `extra` of its checkpoints.

    Saved once; a resumed run finds it in its last checkpoint.
    """
    if run.last is not None and "reference_path" in run.last.extra:
        return {"reference_path": run.last.extra["reference_path"]}
    paths = await save_checkpoint(client, "reference", "sampler")
    return {"reference_path": paths["sampler_path"]}


async def save_checkpoint(client: Any, name: str, kind: Kind, ttl_seconds: int | None = None) -> dict[str, str]:
    """Save the weights under a name, to train on from, to sample from, or both; the paths by record field."""
    futures = {}
    if kind != "sampler":
        futures["state_path"] = client.save_state(name, ttl_seconds=ttl_seconds)
    if kind != "state":
        futures["sampler_path"] = client.save_weights_for_sampler(name, ttl_seconds=ttl_seconds)
    return {key: (await resolved(future)).path for key, future in futures.items()}
