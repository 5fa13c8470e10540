"""Where the workers of a crew print."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path


class WorkerLogs:
    """A folder that is given, or a temporary one of our own (None), which is made when it is first asked for."""

    def __init__(self, given: Path | None) -> None:
        self._given = given

    @cached_property
    def folder(self) -> Path:
        """It exists."""
        if self._given is None:
            return Path(tempfile.mkdtemp(prefix="thumbs-logs-")).resolve()
        self._given.mkdir(parents=True, exist_ok=True)
        return self._given.resolve()

    def close(self, *, keep: bool) -> None:
        """Removes a folder of our own unless it is to be kept: errors name the logs of workers that failed."""
        made = self.__dict__.pop("folder", None)
        if made is not None and self._given is None and not keep:
            shutil.rmtree(made, ignore_errors=True)
