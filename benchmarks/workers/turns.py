"""A worker's side of the benchmark: it measures when it is told to and waits, without using the processor, else.

JSON lines. In: the job, then one line `{"turn": i}` for each measurement; the end of the input ends the worker. Out:
one line when ready, then one a turn. Standard library only, since it runs in every peer's environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import metadata
from typing import Any


class Turns:
    """`job` says what to measure; `next` waits for a turn, `done` reports it."""

    def __init__(self, *packages: str) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # what a library prints must not be taken for a report
        self._started = 0.0
        self.packages = packages
        self.job: dict[str, Any] = json.loads(sys.stdin.readline())

    def ready(self) -> None:
        """Says that everything is loaded, and in which versions."""
        self._say({"versions": {name: metadata.version(name) for name in self.packages}})

    def next(self) -> int:
        """Number of the batch to work on; returns when the turn begins, and never after the last one."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # trainers and engines would start to save and to shut down
        turn = json.loads(line)["turn"]
        self._started = time.perf_counter()
        return turn

    def done(self, **figures: float) -> None:
        """Ends the turn that `next` began."""
        self._say({"seconds": time.perf_counter() - self._started, **figures})

    def _say(self, message: dict[str, Any]) -> None:
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()
