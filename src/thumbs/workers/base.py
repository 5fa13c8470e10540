"""What calls a method of an object that lives in another process, on this machine or on others.

A worker does its calls one after the other, in the order in which they were submitted. Whatever happens to it becomes
an error of each call that waits for it: nobody waits longer than he said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thumbs.errors import WorkerError, WorkerLost

PATIENCE_S = 30.0
"""Seconds without any sign of life after which a worker counts as stuck."""

TOGETHER_S = 1.5
"""Seconds in which workers fail that do so for one reason."""

STARTING_S = 600.0
"""Seconds that its factory may take without `progress`."""


@dataclass(frozen=True)
class WorkerSpec:
    """A worker to start: `factory`, a `module:function`, makes its object of `args`, which must be picklable data.

    name: "rank 1", say; of its log file too. threads: of its computing. gpus: how many devices it has for itself.
    env: further variables of its environment. python: an interpreter of another environment, to which thumbs is lent;
    None: this one.
    """

    name: str
    factory: str
    args: tuple[Any, ...] = ()
    threads: int = 1
    gpus: float = 0
    env: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the worker is started with, in addition to those of the driver."""
        threads = str(self.threads)
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **self.env}

    @property
    def log_name(self) -> str:
        """Name of its log file."""
        return f"{self.name.replace(' ', '-')}.log"


class RemoteWorker(Protocol):
    """One object in another process. name: what it is and where ("rank 1 on HOST"); address: of its machine."""

    name: str
    address: str

    def call(self, method: str, *args: Any, patience_s: float | None = None, **kwargs: Any) -> Future[Any]:
        """What the method returns, or its error: a ThumbsError as itself, anything else as WorkerError, a process that
        died as WorkerLost.

        patience_s: seconds without `progress` from the method after which it is WorkerStuck and its process is ended;
        None: as long as it takes, while the process shows signs of life.
        """
        ...

    def alive(self) -> bool:
        """Whether it can be called."""
        ...

    def close(self) -> None:
        """Ends its process; what still waits for it fails."""
        ...


class Crew(Protocol):
    """What starts workers."""

    @property
    def logs(self) -> Path:
        """The folder for what they print."""
        ...

    def start(self, specs: Sequence[WorkerSpec]) -> list[RemoteWorker]:
        """The workers, each with its object made; an error of a factory is raised, and none is left running."""
        ...

    def close(self) -> None:
        """Ends all workers that it started."""
        ...


def results(futures: Iterable[Future[Any]]) -> list[Any]:
    """All results in order. Raises as soon as one of them fails; a lost worker goes before what its loss did to others,
    and workers that are lost together are all named.

    The other futures go on.
    """
    waiting = list(futures)
    done, _ = wait(waiting, return_when="FIRST_EXCEPTION")
    if any(future.exception() is not None for future in done):
        # Peers that wait for each other fail in the same moment, and only one of their errors names the cause.
        wait(waiting, timeout=TOGETHER_S)
        errors = [error for future in waiting if future.done() and (error := future.exception()) is not None]
        lost = [error for error in errors if isinstance(error, WorkerLost)]
        if len(lost) > 1:
            raise type(lost[0])("\n".join(map(str, lost))) from lost[0]
        raise min(errors, key=_rank)
    return [future.result() for future in waiting]


def _rank(error: BaseException) -> int:
    return 0 if isinstance(error, WorkerLost) else 2 if isinstance(error, WorkerError) else 1


_listener: Callable[[Any], None] | None = None


def progress(event: Any = None) -> None:
    """Called by an object that works: a sign of life, and where it is ("micro-batch 3 of 8"), which errors quote.

    Outside of a worker it does nothing.
    """
    if _listener is not None:
        _listener(event)


def listen(listener: Callable[[Any], None]) -> None:
    """What `progress` calls in this process."""
    global _listener
    _listener = listener
