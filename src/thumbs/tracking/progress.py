"""Progress of a long loop: a live bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterable
from typing import IO

import rich.progress
from rich.console import Console
from rich.text import Text


class Progress:
    """Context manager that shows steps done, named live fields, time spent and time left.

    On a terminal it is one line that moves. Elsewhere it writes plain lines: at most one each `interval_s`
    seconds, and one at the end.
    """

    def __init__(
        self,
        title: str,
        total: int,
        fields: Iterable[str] = (),
        *,
        stream: IO[str] | None = None,
        interval_s: float = 10.0,
    ) -> None:
        self._title, self._total, self._done = title, total, 0
        self._written: int | None = None
        self._fields: dict[str, float | str | None] = dict.fromkeys(fields)
        self._stream = stream or sys.stdout
        self._interval_s = interval_s
        self._started_s = self._written_s = 0.0
        self._first: tuple[int, float] | None = None  # steps done at the first report, and when it came
        self._bar: rich.progress.Progress | None = None

    def __enter__(self) -> Progress:
        self._started_s = self._written_s = time.monotonic()
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            self._bar = _bar(self._stream)
            self._task = self._bar.add_task(self._title, total=self._total, shown="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()
        elif self._written != self._done:
            self._write_line()

    def advance(self, n: int = 1, /, **fields: float | str | None) -> None:
        """Count `n` more steps and show these values; a field that is not given keeps its last one."""
        self._done += n
        self._first = self._first or (self._done, time.monotonic())
        self._fields |= fields
        if self._bar:
            self._bar.update(self._task, completed=self._done, shown=self._shown())
        elif time.monotonic() - self._written_s >= self._interval_s:
            self._write_line()

    def _shown(self) -> str:
        return "  ".join(f"{k} {_format(v)}" for k, v in self._fields.items() if v is not None)

    def _write_line(self) -> None:
        self._written, self._written_s = self._done, time.monotonic()
        elapsed_s = self._written_s - self._started_s
        left = self._left_s(elapsed_s)
        parts = [f"{self._title} {self._done}/{self._total}", self._shown(), f"{_clock(elapsed_s)} spent"]
        if left:
            parts.append(f"{_clock(left)} left")
        self._stream.write("  ".join(part for part in parts if part) + "\n")
        self._stream.flush()

    def _left_s(self, elapsed_s: float) -> float:
        """Time left at the pace since the first report, which counts the steps of an interrupted run; 0: unknown."""
        if not 0 < self._done < self._total:
            return 0.0
        before, first_s = self._first or (0, self._started_s)
        if self._done > before:
            return (self._written_s - first_s) / (self._done - before) * (self._total - self._done)
        return elapsed_s / self._done * (self._total - self._done)


class _Fields(rich.progress.ProgressColumn):
    """The live fields, as text without markup: a value may hold square brackets."""

    def render(self, task: rich.progress.Task) -> Text:
        return Text(task.fields["shown"], style="cyan")


def _bar(stream: IO[str]) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(bar_width=24),
        rich.progress.MofNCompleteColumn(),
        _Fields(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TextColumn("left"),
        rich.progress.TimeRemainingColumn(),
        console=Console(file=stream),
        speed_estimate_period=math.inf,  # rich forgets the pace after 30 s, and a step of PPO takes longer
    )


def _format(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
