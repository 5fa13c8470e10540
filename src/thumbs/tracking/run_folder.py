"""The run folder: what was asked, with which versions, and what every stage left behind.

run/
├── config.json  versions.json  summary.json  report.html  .lock
└── <stage>/     identity.json  metrics.jsonl  samples.jsonl  done.json  (and the stage's checkpoints)
"""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from thumbs.errors import RunError
from thumbs.tracking.files import (
    Recorded,
    StepLog,
    plain,
    read_object,
    read_object_if_there,
    write_json,
    writing,
)
from thumbs.tracking.metrics import MetricLog

_SHOWN_DIFFERENCES = 5
_LOCK = ".lock"
_NO_PROGRESS = (
    "identity.json", "spent_s.json", "metrics.jsonl", "samples.jsonl", "stragglers.jsonl", "alarms.jsonl",
    "filtered.jsonl", "at-kl", "watch", "reference.json",
)  # fmt: skip
"""What a stage leaves before its first checkpoint, and writes again when it begins anew."""


class StageFolder:
    """The folder of one stage. `done.json` appears last, so a stage that has it is complete."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def metrics(self) -> MetricLog:
        """The numbers of each step, metrics.jsonl."""
        return MetricLog(self.path / "metrics.jsonl")

    @cached_property
    def samples(self) -> StepLog:
        """The replies kept over time, samples.jsonl."""
        return StepLog(self.path / "samples.jsonl")

    @cached_property
    def stragglers(self) -> StepLog:
        """The prompts that were cut because their replies were late, stragglers.jsonl."""
        return StepLog(self.path / "stragglers.jsonl")

    @cached_property
    def alarms(self) -> StepLog:
        """What looked wrong, and when, alarms.jsonl."""
        return StepLog(self.path / "alarms.jsonl")

    @cached_property
    def filtered(self) -> StepLog:
        """Prompts (step 0) and replies that a filter found something in, filtered.jsonl."""
        return StepLog(self.path / "filtered.jsonl")

    def is_done(self) -> bool:
        """Whether the stage ran to its end."""
        return (self.path / "done.json").exists()

    def mark_done(self, results: Mapping[str, Any]) -> None:
        """Declare the stage complete with these results; call it after everything else is on the disk."""
        write_json(self.path / "done.json", results)

    def results(self) -> Recorded:
        """What `mark_done` was given; raises RunError if the stage is not complete."""
        if not self.is_done():
            raise RunError(f"stage {self.path.name!r} of {self.path.parent} is not complete; run it first")
        return read_object(self.path / "done.json")

    def has_begun(self) -> bool:
        """Whether something of the stage would be taken up again: its results, a checkpoint, pairs, replies."""
        return any(self._is_progress(path) for path in self.path.iterdir()) if self.path.is_dir() else False

    def clear(self) -> None:
        """Deletes all that a stage left; only for the process that has the run folder."""
        with writing(self.path):
            empty(self.path)

    def _is_progress(self, path: Path) -> bool:
        if path.name == "checkpoints":
            return (path / "latest.json").exists()
        if path.name in _NO_PROGRESS or path.name.startswith((".", "nonfinite-", "model")):
            return False
        # An empty file of pairs, and weights next to which no checkpoint was written yet, are begun anew.
        return path.stat().st_size > 0 if path.suffix == ".jsonl" else True


class RunFolder:
    """A run on disk. `open` takes it for this process alone; reading needs no `open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    def open(self, config: Mapping[str, Any], *, allow_changed: bool = False) -> RunFolder:
        """Create the folder, or continue it where its config is the same (the key `run` apart); return self.

        Raises RunError if another process uses the folder and, unless `allow_changed`, where the config
        differs: it then names the first differing keys.
        """
        self.lock()
        try:
            if not allow_changed and (self.path / "config.json").exists():
                self._refuse_changes(read_object(self.path / "config.json"), plain(config))
            self.record(config)
        except BaseException:
            self.close()
            raise
        return self

    def lock(self) -> RunFolder:
        """Take the folder for this process alone, creating it if need be; return self.

        Nothing in a run folder is deleted or written before. Raises RunError if another process has it.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        return self

    def is_worked_on(self) -> bool:
        """Whether a process of this machine has the folder and has not come to the end of the run.

        Nothing is locked to find out, so that a run which begins at this moment is not refused.
        """
        try:
            os.kill(int((self.path / _LOCK).read_text(encoding="utf-8")), 0)
        except PermissionError:  # somebody else's process
            pass
        except (OSError, ValueError):
            return False
        summary, config = self.path / "summary.json", self.path / "config.json"
        try:
            return summary.stat().st_mtime_ns < config.stat().st_mtime_ns
        except FileNotFoundError:
            return True

    def lock_to_read(self) -> RunFolder:
        """Locks as `lock` does; a folder that cannot be written to, in which nobody can work, is read unlocked."""
        return self.lock() if os.access(self.path, os.W_OK) else self

    def settings(self) -> Recorded:
        """What the run was asked for; raises RunError if the folder is not that of a run."""
        if not (self.path / "config.json").exists():
            raise RunError(f"{self.path} is not a run folder: it has no config.json; name one that `thumbs run` made")
        return read_object(self.path / "config.json")

    def record(self, config: Mapping[str, Any]) -> None:
        """Write config.json and versions.json; the date of the first time stays."""
        path = self.path / "versions.json"
        created = read_object_if_there(path).get("created", _now())
        write_json(path, {"created": created, **versions()})
        write_json(self.path / "config.json", plain(config))

    def clear(self) -> None:
        """Delete all that the run left, for a new beginning; the folder stays this process's.

        Raises RunError for a folder that no run wrote, such as a mistyped path, and where it is not locked.
        """
        if not self._lock:
            raise RunError(f"{self.path} is not this process's, so nothing in it is deleted")
        left = [path.name for path in self.path.iterdir() if path.name != _LOCK]
        if left and "config.json" not in left:
            raise RunError(
                f"{self.path} holds no run, so --fresh does not delete it; name another folder with run=PATH"
            )
        with writing(self.path):
            # The settings go last: a deletion that is stopped leaves what is known as a run.
            empty(self.path, keep=(_LOCK, "config.json"))
            (self.path / "config.json").unlink(missing_ok=True)

    def close(self) -> None:
        """Let others use the folder; the system does the same when this process ends or is killed."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stage(self, name: str) -> StageFolder:
        """The folder of a stage, made if need be."""
        folder = self.path / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return StageFolder(folder)

    def _take_lock(self) -> None:
        if self._lock:
            return
        file = (self.path / _LOCK).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise RunError(
                f"run folder {self.path} is in use by process {owner}; wait for it, stop it, or use another folder"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def _refuse_changes(self, old: Any, new: Any) -> None:
        changes = setting_changes(flat_settings(old), flat_settings(new))
        if changes:
            raise RunError(
                f"run folder {self.path} was made with another config:{listed(changes)}\n"
                "use another run folder (run=PATH), put the old values back, or start over with --fresh"
            )


def empty(folder: Path, keep: Sequence[str] = ()) -> None:
    """Deletes everything in a folder but what is named; a folder that is not there is empty."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name in keep:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def listed(changes: Sequence[str]) -> str:
    """The first changes, each on a line, and how many more there are."""
    shown = "".join(f"\n  {change}" for change in changes[:_SHOWN_DIFFERENCES])
    more = f"\n  and {len(changes) - _SHOWN_DIFFERENCES} more" if len(changes) > _SHOWN_DIFFERENCES else ""
    return shown + more


def versions() -> dict[str, Any]:
    """Versions of what computes the numbers, and the machine; from package metadata, without imports."""
    packages = ("torch", "transformers", "tokenizers", "numpy")
    return {
        "thumbs": _package_version("thumbs"),
        "python": platform.python_version(),
        **{name: _package_version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
    }


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def flat_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key, without the top-level `run`; an empty section is a value."""
    if not isinstance(config, Mapping) or (prefix and not config):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if prefix or key != "run":
            flat |= flat_settings(value, f"{prefix}.{key}" if prefix else key)
    return flat


def setting_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key: old there, new now` for each dotted key that differs."""
    changes = []
    for key in dict.fromkeys([*old, *new]):
        if key not in old or key not in new or old[key] != new[key]:
            before, after = (repr(flat[key]) if key in flat else "not set" for flat in (old, new))
            changes.append(f"{key}: {before} there, {after} now")
    return changes


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
