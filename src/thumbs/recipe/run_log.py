"""What a recipe leaves in its log folder: config.json, metrics.jsonl, rollouts.jsonl, and where to go on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from thumbs.recipe.checkpoints import CheckpointManager, get_last_checkpoint, saved_paths
from thumbs.recipe.configs import describe
from thumbs.tracking import StepLog, write_json


class RunLog:
    """The files of a log folder; `last` is the checkpoint to go on from, None where a run begins."""

    def __init__(self, log_path: str) -> None:
        self.folder = Path(log_path).expanduser()
        self.last = get_last_checkpoint(self.folder)
        self._metrics = StepLog(self.folder / "metrics.jsonl")
        self._rollouts = StepLog(self.folder / "rollouts.jsonl")

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


def checkpoint_manager(
    client: Any, service: Any, config: Any, extra: Mapping[str, Any] | None = None
) -> CheckpointManager:
    """The manager that a config asks for; `extra` goes into every record."""
    return CheckpointManager(
        client,
        service,
        config.log_path,
        config.save_every,
        getattr(config, "save_every_tokens", 0),
        getattr(config, "save_every_seconds", 0.0),
        config.ttl_seconds,
        config.rolling_save_every,
        config.rolling_ttl_seconds,
        extra=extra,
    )


async def reference_path(client: Any, run: RunLog) -> dict[str, str]:
    """The path of the policy as it was when the run began, as the `extra` of its checkpoints.

    Saved once; a resumed run finds it in its last checkpoint.
    """
    if run.last is not None and run.last.has("reference_path"):
        return {"reference_path": run.last.get("reference_path")}
    return {"reference_path": (await saved_paths(client, "reference", "sampler"))["sampler_path"]}
