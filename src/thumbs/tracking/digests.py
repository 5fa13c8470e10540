"""What a file holds, as a number that changes with it: SHA-256, read in a stream, and kept for files that are large."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thumbs.tracking.files import write_json

_SETTLED_NS = 2_000_000_000
"""A file that was changed later than so long ago may be changed again without a new time on it."""


def file_digest(path: Path) -> str:
    """SHA-256 of the file, hexadecimal; raises OSError if it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


class DigestCache:
    """Digests of files, computed again when a file's device, inode, size or one of its times has changed.

    path: a JSON file that keeps them for later processes; one that cannot be read or written costs time and nothing
    else. None keeps them for this process.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._kept: dict[str, Any] = {} if path is None else _read(path)

    def digests(self, files: Iterable[Path]) -> list[str]:
        """SHA-256 of each file; raises OSError for one that cannot be read."""
        before = dict(self._kept)
        found = [self._digest(file) for file in files]
        if self.path is not None and self._kept != before:
            with contextlib.suppress(RuntimeError):
                write_json(self.path, self._kept)
        return found

    def _digest(self, file: Path) -> str:
        state = file.stat()
        key, changed_ns = str(file.resolve()), max(state.st_mtime_ns, state.st_ctime_ns)
        mark = [state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
        kept = self._kept.get(key)
        if isinstance(kept, list) and kept[:-1] == mark and isinstance(kept[-1], str):
            return kept[-1]
        digest = file_digest(file)
        if time.time_ns() - changed_ns > _SETTLED_NS:
            self._kept[key] = [*mark, digest]
        return digest


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
