"""The one thread that computes: models take turns by micro-batches, and samplers get as much time as they."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from thumbs.clients.futures import Unanswered
from thumbs.clients.lanes import Lane, LaneOperation, Work
from thumbs.errors import ThumbsError
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.sampler import SampleReply, SampleRequest

log = logging.getLogger(__name__)


class ClosedError(ThumbsError, RuntimeError):
    """The work was asked for when, or had not been done before, its worker ended."""


class Worker:
    """Runs what is submitted to lanes, and the decoding loops. Methods may be called from any thread."""

    def __init__(self, gap_grace_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.grace_s, self.clock = gap_grace_s, clock
        self.sampled_tokens = 0
        self._lanes: dict[str, Lane] = {}
        self._loops: list[DecodingLoop] = []
        self._incoming: deque[Callable[[], None]] = deque()
        self._unanswered = Unanswered()
        self._wakeup = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="thumbs-worker", daemon=True)
        self._thread.start()

    def submit(self, lane: str, begin: Callable[[], Work], number: int | None = None) -> Future[Any]:
        """The result of `begin()`, run in its lane; raises DataError for a number that cannot be taken."""
        operation = LaneOperation(begin)
        with self._wakeup:
            if self._closed:
                raise ClosedError("the service is closed")
            found = self._lanes.setdefault(lane, Lane(lane, self.grace_s, self.clock))
            found.add(operation, number)
            self._wakeup.notify()
        return operation.future

    def sample(
        self, find: Callable[[], NativeSampler], request: SampleRequest, answer: Callable[[SampleReply], Any]
    ) -> Future[Any]:
        """What `answer` makes of the reply of the sampler that `find` gives.

        Both are called by the worker's thread. Cancelling the future ends the request.
        """
        with self._wakeup:
            if self._closed:
                raise ClosedError("the service is closed")
            future = self._unanswered.new()
            self._incoming.append(partial(self._begin, find, request, answer, future))
            self._wakeup.notify()
        return future

    def forget(self, lane: str) -> None:
        """Lets go of a lane without work; one that works keeps its place until it has done it."""
        with self._wakeup:
            if not len(self._lanes.get(lane, ())):
                self._lanes.pop(lane, None)

    def waiting(self) -> dict[str, int]:
        """Operations that wait or run, by lane."""
        with self._wakeup:
            return {name: len(lane) for name, lane in self._lanes.items() if len(lane)}

    @property
    def samples(self) -> int:
        """Requests for samples that have not been answered."""
        return len(self._unanswered)

    def close(self) -> None:
        """Ends the thread after the part it is at; what waits fails with ClosedError."""
        with self._wakeup:
            self._closed = True
            self._wakeup.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            lane = self._next()
            while self._incoming:
                self._incoming.popleft()()
            started = self.clock()
            if lane is not None:
                self._advance(lane)
            self._sample_for(self.clock() - started)
        self._end()

    def _next(self) -> Lane | None:
        """Waits for something to do; returns whose turn it is to train."""
        with self._wakeup:
            lane = self._turn()
            while not self._closed and lane is None and self._quiet():
                patience = [p for x in self._lanes.values() if (p := x.patience_s()) is not None]
                self._wakeup.wait(min(patience, default=None))
                lane = self._turn()
            return lane

    def _begin(
        self,
        find: Callable[[], NativeSampler],
        request: SampleRequest,
        answer: Callable[[SampleReply], Any],
        future: Future[Any],
    ) -> None:
        def begin() -> Future[SampleReply]:
            sampler = find()
            (reply,) = sampler.submit([request])
            if sampler.loop not in self._loops:
                self._loops.append(sampler.loop)
            return reply

        self._unanswered.ask(future, begin, answer)

    def _quiet(self) -> bool:
        return not self._incoming and all(loop.idle for loop in self._loops)

    def _turn(self) -> Lane | None:
        """The next lane that has something to do; it goes to the end of the row."""
        for name, lane in list(self._lanes.items()):
            if lane.running is None:
                lane.running = lane.take()
            if lane.running is not None:
                self._lanes[name] = self._lanes.pop(name)
                return lane
        return None

    def _advance(self, lane: Lane) -> None:
        """One part of the lane's operation."""
        operation = lane.running
        assert operation is not None  # noqa: S101
        try:
            if lane.work is None:
                if not operation.future.set_running_or_notify_cancel():
                    lane.running = None
                    return
                lane.work = operation.begin()
            next(lane.work)
        except StopIteration as stop:
            lane.running = lane.work = None
            operation.future.set_result(stop.value)
        except Exception as error:  # whatever it is, it belongs to the caller, and the others go on
            if not isinstance(error, ThumbsError):
                log.exception("%s: an operation failed", lane.name)
            lane.running = lane.work = None
            operation.future.set_exception(error)

    def _sample_for(self, seconds: float) -> None:
        """Steps of all loops that have something to do: one each, more while `seconds` last."""
        until = self.clock() + seconds
        while busy := [loop for loop in self._loops if not loop.idle]:
            self.sampled_tokens += sum(loop.step() for loop in busy)
            if self.clock() >= until:
                return

    def _end(self) -> None:
        error = ClosedError("the service was closed before this was done")
        for lane in list(self._lanes.values()):  # callbacks of what fails may forget lanes
            for operation in [*([lane.running] if lane.running else []), *lane.drain()]:
                if operation.future.running() or operation.future.set_running_or_notify_cancel():
                    operation.future.set_exception(error)
        self._unanswered.fail(error)
