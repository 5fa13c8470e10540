"""The order in which the operations of a model run: by their numbers, not by their arrival."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from thumbs.errors import DataError
from thumbs.storage import is_away

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Generator[None, None, Any]
"""An operation in progress; it gives way between its parts."""


PATIENCE_S = 600.0
"""How long an operation waits for a database that is away, seconds."""


def patiently(call: Callable[[], T]) -> Generator[None, None, T]:
    """What `call` returns; where the database is away it is called again, and others go on meanwhile."""
    until, pause = time.monotonic() + PATIENCE_S, 0.1
    while True:
        try:
            return call()
        except Exception as error:
            if not is_away(error) or time.monotonic() > until:
                raise
            log.warning("an operation waits for the database: %s", error)
        again = time.monotonic() + pause
        while time.monotonic() < again:
            time.sleep(0.005)  # an operation that waits has always a part to do
            yield
        pause = min(2 * pause, 5.0)


@dataclass(eq=False)
class LaneOperation:
    """Work that has been asked for, and who waits for its result."""

    begin: Callable[[], Work]
    future: Future[Any] = field(default_factory=Future)
    after: int = 0
    """The number that has to be done before, for an operation without a number of its own."""


class Lane:
    """Numbered operations from 1 on, each once and in order; others by arrival, after all that arrived before them.

    A number may never arrive, since its client failed while sending. After `grace_s` in which only later ones wait, it
    is given up and they go on.
    """

    def __init__(self, name: str, grace_s: float, clock: Callable[[], float]) -> None:
        self.name, self.grace_s, self.clock = name, grace_s, clock
        self.running: LaneOperation | None = None
        self.work: Work | None = None
        self._next, self._highest = 1, 0
        self._numbered: dict[int, LaneOperation] = {}
        self._arrived: deque[LaneOperation] = deque()
        self._waits_since: float | None = None

    def add(self, operation: LaneOperation, number: int | None) -> None:
        """Queues an operation; raises DataError for a number that is taken, or so old that it was given up."""
        if number is None:
            operation.after = self._highest
            self._arrived.append(operation)
            return
        if number < self._next or number in self._numbered:
            raise DataError(
                f"operation {number} of {self.name} came twice or too late; the next one is {self._next}. "
                "Submit each with a number of its own, from 1 on"
            )
        self._numbered[number] = operation
        self._highest = max(self._highest, number)

    def take(self) -> LaneOperation | None:
        """The operation that runs next, out of the queue; None when nothing can run (yet)."""
        while True:
            if self._arrived and self._arrived[0].after < self._next:
                return self._taken(self._arrived.popleft())
            if self._next in self._numbered:
                self._next += 1
                return self._taken(self._numbered.pop(self._next - 1))
            if not self._gives_up():
                return None

    def __len__(self) -> int:
        return len(self._numbered) + len(self._arrived) + (self.running is not None)

    def drain(self) -> list[LaneOperation]:
        """Everything that waits, out of the queue."""
        found = [*self._numbered.values(), *self._arrived]
        self._numbered, self._arrived = {}, deque()
        return found

    def patience_s(self) -> float | None:
        """Seconds until a missing number is given up; None when none is missed."""
        return None if self._waits_since is None else max(self._waits_since + self.grace_s - self.clock(), 0.0)

    def _taken(self, operation: LaneOperation) -> LaneOperation:
        self._waits_since = None
        return operation

    def _gives_up(self) -> bool:
        """Whether a missing number was given up just now."""
        if not self._numbered:
            return False
        if self._waits_since is None:
            self._waits_since = self.clock()
        if self.patience_s():
            return False
        found = min(self._numbered)
        log.warning("%s: operations %d to %d never arrived; going on with %d", self.name, self._next, found - 1, found)
        self._next, self._waits_since = found, None
        return True
