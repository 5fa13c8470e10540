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

_SETTLED_S = 2.0
"""A file that was written later than so long ago may be written again without a new time on it."""


def file_digest(path: Path) -> str:
    """SHA-256 of the file, hexadecimal; raises OSError where it cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys, hexadecimal."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()


class DigestCache:
    """Digests of files, kept in one JSON file by path, size, time of the last change (ns) and inode.

    A cache that cannot be read or written costs time and nothing else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            found = {}
        self._kept: dict[str, Any] = found if isinstance(found, dict) else {}

    def digests(self, files: Iterable[Path]) -> list[str]:
        """SHA-256 of each file; raises OSError for one that cannot be read."""
        before = dict(self._kept)
        found = [self._digest(file) for file in files]
        if self._kept != before:
            with contextlib.suppress(RuntimeError):
                write_json(self.path, self._kept)
        return found

    def _digest(self, file: Path) -> str:
        state = file.stat()
        key, mark = str(file.resolve()), [state.st_size, state.st_mtime_ns, state.st_ino]
        kept = self._kept.get(key)
        if isinstance(kept, list) and len(kept) == 4 and kept[:3] == mark and isinstance(kept[3], str):
            return kept[3]
        digest = file_digest(file)
        if time.time() - state.st_mtime > _SETTLED_S:
            self._kept[key] = [*mark, digest]
        return digest
