"""Promises: operations that were accepted, and what became of them.

A promise is a row of the store from before its operation starts, so that a repeated submission finds the first one and
a restart can tell what was lost. Waiting costs a coroutine, not a thread.

An outcome is kept in memory until it is in the store: while the database is away it is told from there, and storing it
is tried again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import Any

from starlette.exceptions import HTTPException

from thumbs.clients.futures import APIFuture
from thumbs.clients.sampling import FullError
from thumbs.clients.store import Store
from thumbs.clients.tables import FutureRecord
from thumbs.clients.worker import ClosedError
from thumbs.errors import ThumbsError
from thumbs.service.threads import Threads
from thumbs.storage import is_away

log = logging.getLogger(__name__)

LOST = "lost"
"""Category of what a restart interrupted."""
LOST_ERROR = (
    "the server stopped before this operation ended; its model is no longer in memory: create a training client from"
    " the last saved state (create_training_client_from_state_with_optimizer) and go on from there"
)
Encode = Callable[[Any], tuple[bytes, str]]
_PAUSES_S = (0.2, 5.0)
"""Between two tries to store what could not be stored: the first and the longest."""


@dataclass(frozen=True)
class PromisedOperation:
    """What is promised, and how to do it."""

    kind: str
    owner: str
    session_id: str | None
    key: tuple[str, int] | None
    """Scope and number that name the submission: the same again is the same operation."""
    body: bytes
    start: Callable[[], Any]
    """Runs in a worker thread; gives the result or a future of it, and raises FullError if there is no room."""
    encode: Encode
    """Body and content type of the result."""


@dataclass(frozen=True)
class Outcome:
    """How an operation ended: a result, or an error with its category."""

    kind: str
    result: bytes = b""
    content_type: str = ""
    error: str | None = None
    category: str = "server"


@dataclass
class _Pending:
    """An operation that runs; without its body, which may be long."""

    kind: str
    owner: str
    encode: Encode
    done: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    running: Future[Any] | None = None
    cancelled: bool = False


class Promises:
    """Starts operations and keeps their outcomes."""

    def __init__(self, store: Store, threads: Threads, poll_s: float) -> None:
        self._store = store
        self._threads = threads
        self._poll_s = poll_s
        self._pending: dict[str, _Pending] = {}
        self._storing = asyncio.Lock()
        self._settling: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._pending)

    async def submit(self, operation: PromisedOperation) -> str:
        """The id of the promise; of the first one where the same operation was submitted before.

        Raises HTTPException 400 where another body came under the same key, 429 where there is no room.
        """
        request_id, digest = uuid.uuid4().hex, hashlib.sha256(operation.body).hexdigest()
        pending = self._pending[request_id] = _Pending(operation.kind, operation.owner, operation.encode)
        try:
            record = await self._threads.record(
                self._store.add_future,
                request_id,
                operation.owner,
                operation.kind,
                session_id=operation.session_id,
                key=operation.key,
                body_hash=digest,
            )
        except BaseException:
            del self._pending[request_id]
            raise
        if record.request_id != request_id:
            del self._pending[request_id]
            if record.body_hash != digest:
                raise HTTPException(400, f"another request was already accepted as {_named(operation.key)}")
            if record.request_id in self._pending or record.finished is not None:
                return record.request_id
            # Accepted once and turned away because the queue was full: this is its second chance.
            request_id = record.request_id
            self._pending[request_id] = pending
        await self._start(request_id, operation.start, pending)
        return request_id

    async def wait(self, request_id: str, owner: str) -> Outcome | None:
        """How the operation ended, or None if it has not within the time of one poll.

        Raises LookupError if `owner` has no such promise.
        """
        pending = self._pending.get(request_id)
        if pending is None:
            return await self._stored(request_id, owner)
        if pending.owner != owner:
            raise LookupError(request_id)
        await asyncio.wait((pending.done,), timeout=self._poll_s)
        return pending.done.result() if pending.done.done() else None

    def queued(self, request_id: str) -> bool:
        """Whether an operation of a model has not begun; samples are begun when they are taken in."""
        pending = self._pending.get(request_id)
        return pending is not None and pending.kind != "sample" and not (pending.running and pending.running.running())

    def cancel(self, request_id: str, owner: str) -> None:
        """Ends the operation where it has not ended; of no consequence for others."""
        pending = self._pending.get(request_id)
        if pending is not None and pending.owner == owner:
            pending.cancelled = True
            if pending.running is not None:
                pending.running.cancel()

    async def _stored(self, request_id: str, owner: str) -> Outcome | None:
        record = await self._threads.record(self._store.future, request_id)
        if record is None or record.owner != owner:
            raise LookupError(request_id)
        if record.finished is None:
            await asyncio.sleep(min(1.0, self._poll_s))
            return None
        return _kept(record)

    async def _start(self, request_id: str, start: Callable[[], Any], pending: _Pending) -> None:
        try:
            begun = await self._threads.work(start)
        except FullError as error:
            del self._pending[request_id]
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        except Exception as error:
            if is_away(error):  # nothing has begun: the client is told to ask again
                del self._pending[request_id]
                raise
            running: Future[Any] = Future()
            running.set_exception(error)
        else:
            running = begun if isinstance(begun, Future) else APIFuture.of(begun).future()
        pending.running = running
        if pending.cancelled:
            running.cancel()
        task = asyncio.create_task(self._settle(request_id, pending, running))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle(self, request_id: str, pending: _Pending, running: Future[Any]) -> None:
        """Keeps the outcome, then tells those who wait; in that order, so that what was told survives a crash."""
        ended = asyncio.wrap_future(running)
        await asyncio.wait((ended,))
        _ = ended.cancelled() or ended.exception()  # or asyncio would say that nobody has asked for the error
        outcome, stored = await self._threads.work(self._keep, request_id, pending, running)
        pending.done.set_result(outcome)
        if not stored:
            pause, longest = _PAUSES_S
            async with self._storing:  # one at a time, since the next would fail alike
                while not await self._threads.record(self._store_outcome, request_id, outcome):
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, longest)
        del self._pending[request_id]

    def _keep(self, request_id: str, pending: _Pending, done: Future[Any]) -> tuple[Outcome, bool]:
        outcome = _outcome_of(request_id, pending, done)
        return outcome, self._store_outcome(request_id, outcome)

    def _store_outcome(self, request_id: str, outcome: Outcome) -> bool:
        """Whether it is in the store now; instead of one that can never be stored an error is."""
        try:
            self._write(request_id, outcome)
        except Exception as error:
            if is_away(error):
                log.warning("the outcome of %s is not stored yet, the database is away: %s", request_id, error)
                return False
            log.exception("the outcome of %s cannot be stored", request_id)
            refused = f"the server could not store the result ({type(error).__name__}); its log tells more"
            with contextlib.suppress(Exception):
                self._write(request_id, Outcome(outcome.kind, error=refused))
                return True
            return False
        return True

    def _write(self, request_id: str, outcome: Outcome) -> None:
        if outcome.error is None:
            ended = {"result": outcome.result, "content_type": outcome.content_type}
        else:
            ended = {"error": outcome.error, "category": outcome.category}
        self._store.finish_future(request_id, **ended)

    async def close(self) -> None:
        """A last try to store what is only in memory; says in the log what is lost with it."""
        for task in self._settling:
            task.cancel()
        ended = {request_id: pending for request_id, pending in self._pending.items() if pending.done.done()}
        for request_id, pending in ended.items():
            if not await self._threads.record(self._store_outcome, request_id, pending.done.result()):
                words = "the outcome of %s %s of %s is lost: it could not be stored"
                log.error(words, pending.kind, request_id, pending.owner)


def _outcome_of(request_id: str, pending: _Pending, done: Future[Any]) -> Outcome:
    try:
        body, content_type = pending.encode(done.result())
    except CancelledError:
        return Outcome(pending.kind, error="the operation was cancelled", category="user")
    except ClosedError:
        return Outcome(pending.kind, error=LOST_ERROR, category=LOST)
    except ThumbsError as error:
        return Outcome(pending.kind, error=str(error), category="user")
    except Exception as error:
        log.exception("%s %s failed", pending.kind, request_id)
        text = f"the server failed ({type(error).__name__}); its log tells more under {request_id}"
        return Outcome(pending.kind, error=text)
    return Outcome(pending.kind, body, content_type)


def _kept(record: FutureRecord) -> Outcome:
    return Outcome(record.kind, record.result or b"", record.content_type, record.error, record.category or "server")


def _named(key: tuple[str, int] | None) -> str:
    return f"number {key[1]} of {key[0]}" if key else "this one"
