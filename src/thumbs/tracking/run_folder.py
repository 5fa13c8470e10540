"""The run folder: what was asked, with which versions, and what every stage left behind.

run/
├── config.json  versions.json  summary.json  report.html  .lock
└── <stage>/     metrics.jsonl  samples.jsonl  done.json  (and the stage's checkpoints)
"""

from __future__ import annotations

import datetime
import fcntl
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from thumbs.errors import RunError
from thumbs.tracking.files import StepLog, plain, read_json, write_json, writing
from thumbs.tracking.metrics import MetricLog

_SHOWN_DIFFERENCES = 5


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

    def is_done(self) -> bool:
        """Whether the stage ran to its end."""
        return (self.path / "done.json").exists()

    def mark_done(self, results: Mapping[str, Any]) -> None:
        """Declare the stage complete with these results; call it after everything else is on the disk."""
        write_json(self.path / "done.json", results)

    def results(self) -> dict[str, Any]:
        """What `mark_done` was given; raises RunError where the stage is not complete."""
        if not self.is_done():
            raise RunError(f"stage {self.path.name!r} of {self.path.parent} is not complete; run it first")
        return read_json(self.path / "done.json")


class RunFolder:
    """A run on disk. `open` takes it for this process alone; reading needs no `open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: IO[str] | None = None

    def open(self, config: Mapping[str, Any], *, allow_changed: bool = False) -> RunFolder:
        """Create the folder, or continue it where its config is the same (the key `run` apart); return self.

        Raises RunError where another process uses the folder and, unless `allow_changed`, where the config
        differs: it then names the first differing keys.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        wanted, config_path = plain(config), self.path / "config.json"
        try:
            created = _now()
            if config_path.exists():
                if not allow_changed:
                    self._refuse_changes(read_json(config_path), wanted)
                created = read_json(self.path / "versions.json").get("created", created)
            write_json(self.path / "versions.json", {"created": created, **versions()})
            write_json(config_path, wanted)
        except BaseException:
            self.close()
            raise
        return self

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
        file = (self.path / ".lock").open("a+", encoding="utf-8")
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
        changes = list(_differences(_flat(old), _flat(new)))
        if not changes:
            return
        shown = "".join(f"\n  {change}" for change in changes[:_SHOWN_DIFFERENCES])
        more = f"\n  and {len(changes) - _SHOWN_DIFFERENCES} more" if len(changes) > _SHOWN_DIFFERENCES else ""
        raise RunError(
            f"run folder {self.path} was made with another config:{shown}{more}\n"
            "use another run folder (run=PATH), put the old values back, or start over with --fresh"
        )


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


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted key, without the top-level `run`; an empty section is a value."""
    if not isinstance(config, Mapping) or (prefix and not config):
        return {prefix: config}
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if prefix or key != "run":
            flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for key in dict.fromkeys([*old, *new]):
        if key not in old or key not in new or old[key] != new[key]:
            before, after = (repr(flat[key]) if key in flat else "not set" for flat in (old, new))
            yield f"{key}: {before} there, {after} now"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
