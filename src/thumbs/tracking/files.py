"""Files that are whole or not there: atomic JSON, and logs of one JSON object per line that survive a kill."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from thumbs.errors import CheckpointError, RunError, ThumbsError

_log = logging.getLogger(__name__)


def plain(value: Any) -> Any:
    """`value` as strict JSON holds it: no tuples, arrays or numpy numbers, and None for NaN and ±∞."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` so that a reader finds the old file or the new one, never a part.

    Raises RunError if the disk is full or the folder cannot be written; the old file then still stands.
    """
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Writes text as `write_json` writes JSON: UTF-8, in a temporary file next to `path`, synced, then renamed."""
    path = Path(path)
    # A lone surrogate (half of an emoji from a cut reply) has no UTF-8 form; it becomes "?".
    content = text.encode("utf-8", errors="replace")
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file's path next to `path`; when the block ends well, that file is synced and takes the place of `path`.

    Its rights are those that the user's umask leaves of 0666, whatever wrote it (safetensors makes 0600).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well and is gone when it fails.

    Raises RunError if `path` is a file, or a folder that holds anything, before the block and before the move.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise RunError(f"{path} exists and is not empty; name another folder")
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    with writing(path):
        try:
            scratch.mkdir(parents=True)
            yield scratch
            for file in scratch.iterdir():
                sync(file)
            scratch.replace(path)  # an empty folder gives way, one that was filled meanwhile does not
            sync(path.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` when the block ends well and is gone when it fails.

    What was at `path` is deleted only when the new folder stands there. Only for the process that has the run folder.
    """
    restore_folder(path)
    name = secrets.token_hex(6)
    scratch, old = (path.with_name(f".{path.name}.{name}.{end}") for end in ("part", "old"))
    with writing(path):
        try:
            scratch.mkdir(parents=True)
            yield scratch
            for file in scratch.iterdir():
                sync(file)
            if path.exists():
                path.replace(old)
            scratch.replace(path)
            sync(path.parent)
        finally:
            restore_folder(path)


def restore_folder(path: Path) -> None:
    """Puts back what `replaced_folder` had set aside when it was stopped between two moves, and clears what it left."""
    for old in path.parent.glob(f".{path.name}.*.old"):
        if not path.exists():
            old.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    for part in path.parent.glob(f".{path.name}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block, which writes `path`, into a RunError that says what to do."""
    try:
        yield
    except ThumbsError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"disk full while writing {path}: {_free_mib(path)} MiB free; nothing was lost, "
                "make room and run the same command again"
            ) from error
        raise RunError(f"cannot write {path}: {error.strerror or error}; check the folder and its rights") from error


_MEND = {
    "config.json": "restore it from a copy; without the settings of a run its models cannot be used",
    "versions.json": "delete it, and the next run writes it anew",
    "done.json": "restore it, or delete it, and the same command finishes the stage again",
    "identity.json": "restore it, or delete the folder of the stage to train it again",
    "latest.json": "delete the folder that it is in, and the same command starts this stage alone over",
    "spent_s.json": "delete it; all that is lost is how long the stage took so far",
    "summary.json": "delete it, and the next run writes it anew",
    "results.json": "measure again with `thumbs eval`",
    "audit.json": "delete it, and measure again with `thumbs eval reward-model`",
    "reference.json": "delete it, and the next run computes it anew",
}
"""What to do about a damaged file of a run, by its name."""


def mend(path: Path) -> str:
    """What to do about a damaged file of a run."""
    return _MEND.get(path.name, "delete it and run the stage again")


class Recorded(dict[str, Any]):
    """A JSON object of a run. A key that is not there raises CheckpointError, which names the file."""

    def __init__(self, value: Mapping[str, Any], path: Path) -> None:
        super().__init__({k: Recorded(v, path) if isinstance(v, dict) else v for k, v in value.items()})
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self.path} is damaged: it has no {key!r}; {mend(self.path)}")

    def number(self, key: str) -> float:
        """The finite number under `key`; raises CheckpointError for anything else."""
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{self.path} is damaged: {key!r} is {value!r}, no number; {mend(self.path)}")
        return value

    def section(self, key: str) -> Recorded:
        """The object under `key`; raises CheckpointError for anything else."""
        value = self[key]
        if not isinstance(value, Recorded):
            raise CheckpointError(f"{self.path} is damaged: {key!r} is {value!r}, no object; {mend(self.path)}")
        return value


def read_object(path: str | Path) -> Recorded:
    """The object in a JSON file that a run keeps: the one reader of a run's state.

    Raises CheckpointError, which names the file and says what to do, if it is missing, damaged or of another type.
    """
    path = Path(path)
    value = read_json(path)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is damaged: it holds {_named(value)} in place of an object; {mend(path)}")
    return Recorded(value, path)


def read_object_if_there(path: str | Path) -> Recorded:
    """What `read_object` gives, or an empty object if nothing is at `path`."""
    path = Path(path)
    return read_object(path) if path.exists() else Recorded({}, path)


def read_json(path: str | Path) -> Any:
    """The value in the JSON file at `path`; raises CheckpointError if it is missing or not JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; was the stage that writes it run?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); {mend(path)}") from error


def _named(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{type(value).__name__} {shown[:40]}…"


class StepLog:
    """A file of JSON objects, one per line, each with a `step`.

    A last line that a kill cut short is ignored. Any other line that is not a record is left out and named in the log.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def append(self, step: int, record: Mapping[str, Any]) -> None:
        """Add {"step": step, **record} as one line and hand it to the system before returning."""
        line = json.dumps(plain({"step": step, **record}), ensure_ascii=False) + "\n"
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                if _is_torn(file):
                    file.write(b"\n")
                file.write(line.encode("utf-8", errors="replace"))

    def read(self) -> list[dict[str, Any]]:
        """All whole records in order; empty where there is no file."""
        return list(self._records())

    def truncate_after(self, step: int) -> None:
        """Drop the records of steps later than `step`, which a resumed stage will write again."""
        self._keep(lambda record: record["step"] <= step)

    def drop(self, step: int) -> None:
        """Drop the records of one step."""
        self._keep(lambda record: record["step"] != step)

    def _keep(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        if not self.path.exists():
            return
        kept = [record for record in self._records() if wanted(record)]
        write_text(self.path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))

    def _records(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        strange = []
        try:
            with self.path.open(encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, start=1):
                    record = _record(line)
                    if record is not None:
                        yield record
                    elif not _is_torn_record(line):
                        strange.append(number)
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be read ({error.strerror}); move it away, and the report does without it"
            ) from error
        if strange:
            _log.warning(
                "%s: %d lines are damaged and left out, the first is line %d; what they held is not in the report",
                self.path,
                len(strange),
                strange[0],
            )


def _record(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return record if isinstance(step, int) and not isinstance(step, bool) else None


def _is_torn_record(line: str) -> bool:
    """Whether a kill may have cut a record here: its beginning, and no end."""
    return '{"step": '.startswith(line.rstrip("\n")[:9]) and not line.rstrip("\n").endswith("}")


def _is_torn(file: Any) -> bool:
    """Whether the file, open for reading and appending, ends within a line."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"


def _free_mib(path: Path) -> int:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return shutil.disk_usage(folder).free // 2**20
