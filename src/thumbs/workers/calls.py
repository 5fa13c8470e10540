"""The calls that wait for a worker, whatever carries them: their order, their results, and how long they may take."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thumbs.errors import ThumbsError, WorkerError, WorkerLost, WorkerStuck

LOG_LINES = 20
"""Lines of a worker's log that an error quotes."""


@dataclass
class _Call:
    method: str
    patience_s: float | None
    future: Future[Any] = field(default_factory=Future)


class Calls:
    """What one worker has been asked and has not answered. log: the file of what it prints.

    patience_s: seconds without a sign of life after which a worker that has something to do counts as stuck.
    """

    def __init__(self, name: str, log: Path, patience_s: float) -> None:
        self.name, self.log, self.patience_s = name, log, patience_s
        self.end: str | None = None
        """Why it can be called no more."""
        self.failed = False
        """Whether it broke down, in a call or altogether, and its log may say why."""
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._waiting: dict[int, _Call] = {}
        self._event: Any = None
        self._moved = self._seen = time.monotonic()

    def add(self, method: str, patience_s: float | None) -> tuple[int, Future[Any]]:
        """A number for a new call, and what will be its result; 0 if there is nobody to call, which it says at once."""
        call = _Call(method, patience_s)
        with self._lock:
            if self.end is not None:
                call.future.set_exception(self._lost(call, self.end))
                return 0, call.future
            if not self._waiting:
                self._event, self._moved = None, time.monotonic()
            number = next(self._numbers)
            self._waiting[number] = call
        return number, call.future

    def alive(self) -> None:
        """The worker has shown a sign of life."""
        with self._lock:
            self._seen = time.monotonic()

    def moved(self, event: Any) -> None:
        """The worker has said where it is."""
        with self._lock:
            self._seen = self._moved = time.monotonic()
            self._event = event

    def answer(self, number: int, value: Any, error: BaseException | tuple[str, str] | None = None) -> None:
        """The result of a call, or its error as `portable` makes it."""
        with self._lock:
            call, event = self._waiting.pop(number, None), self._event
            self._seen = self._moved = time.monotonic()
            self._event = None
        if call is None or not call.future.set_running_or_notify_cancel():
            return
        if error is None:
            call.future.set_result(value)
        elif isinstance(error, BaseException):
            call.future.set_exception(error)
        else:
            self.failed = True
            summary, trace = error
            lines = "\n".join(trace.strip().splitlines()[-LOG_LINES:])
            where = f"{self.name} failed in {call.method}{_at(event)}"
            call.future.set_exception(WorkerError(f"{where}: {summary}\n{lines}{self._log_tail()}"))

    def overdue(self) -> str | None:
        """Why the worker must be ended, if it must."""
        with self._lock:
            now = time.monotonic()
            if not self._waiting:
                self._seen = now
                return None
            allowed = next(iter(self._waiting.values())).patience_s
            silent, still = now - self._seen, now - self._moved
        if silent > self.patience_s:
            return f"gave no sign of life for {silent:.0f} s"
        if allowed is not None and still > allowed:
            return f"made no progress for {still:.0f} s, and {allowed:.0f} s were allowed"
        return None

    def close(self) -> None:
        """It was ended because nobody needs it any more."""
        with self._lock:
            self.end = self.end or "was closed"
        self.finish(self.end)

    def finish(self, reason: str, *, stuck: bool = False) -> None:
        """No call will be answered any more."""
        with self._lock:
            self.failed = self.failed or self.end is None
            self.end = self.end or reason
            waiting, self._waiting = list(self._waiting.values()), {}
        for call in waiting:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(self._lost(call, self.end, stuck=stuck))

    def _lost(self, call: _Call, reason: str, *, stuck: bool = False) -> WorkerLost:
        error = WorkerStuck if stuck else WorkerLost
        return error(f"{self.name} {reason}, during {call.method}{_at(self._event)}.{self._log_tail()}")

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        except OSError:
            return ""
        return "\n".join([f"\nIts log {self.log} " + ("ends:" if lines else "is empty."), *lines])


def portable(error: BaseException, trace: str) -> BaseException | tuple[str, str]:
    """An error as it travels: a ThumbsError itself, of others (summary, traceback)."""
    if isinstance(error, ThumbsError):
        with contextlib.suppress(Exception):  # one whose arguments are not its message does not come back from bytes
            pickle.loads(pickle.dumps(error))  # noqa: S301 (written here)
            return error
    return f"{type(error).__name__}: {error}", trace


def _at(event: Any) -> str:
    return "" if event is None else f" at {event}"
