"""What a client's calls return: results that are on their way."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, Generic, ParamSpec, TypeVar

from thumbs.errors import ThumbsError

log = logging.getLogger(__name__)

T = TypeVar("T")
P = ParamSpec("P")


class APIFuture(Generic[T]):
    """A result that may be waited for, with `result()` or in a coroutine with `await` or `result_async()`."""

    def __init__(self, future: Future[Any], convert: Callable[[Any], T] = lambda value: value) -> None:
        self._future, self._convert = future, convert

    @staticmethod
    def of(value: T) -> APIFuture[T]:
        """One that is there already."""
        future: Future[T] = Future()
        future.set_result(value)
        return APIFuture(future)

    def result(self, timeout: float | None = None) -> T:
        """The result; raises TimeoutError after `timeout` seconds, or what the operation raised."""
        return self._convert(self._future.result(timeout))

    async def result_async(self, timeout: float | None = None) -> T:
        """The same in a coroutine."""
        return self._convert(await asyncio.wait_for(asyncio.wrap_future(self._future), timeout))

    def __await__(self) -> Generator[Any, None, T]:
        return self.result_async().__await__()

    async def coroutine(self) -> T:
        """The result in a coroutine, for what takes no other awaitable."""
        return await self

    def future(self) -> Future[Any]:
        """The future of the standard library behind it."""
        return self._future

    def done(self) -> bool:
        """Whether the result, or an error, is there."""
        return self._future.done()

    def cancel(self) -> bool:
        """Gives up what has not begun, and samples at any time; whether that could be done."""
        return self._future.cancel()


def after(made: Future[Any], begin: Callable[[], Future[T]]) -> Future[T]:
    """The future of `begin()`, which is called when `made` is there; what `made` raises it raises."""
    if made.done() and made.exception() is None:
        return begin()
    result: Future[T] = Future()

    def hand_over(done: Future[Any]) -> None:
        if not result.set_running_or_notify_cancel():
            return
        try:
            result.set_result(done.result())
        except Exception as error:  # whatever it was, it is for the one who waits
            result.set_exception(error)

    def go_on(done: Future[Any]) -> None:
        try:
            done.result()
            begun = begin()
        except Exception as error:
            begun = Future()
            begun.set_exception(error)
        begun.add_done_callback(hand_over)
        result.add_done_callback(lambda ended: begun.cancel() if ended.cancelled() else None)

    made.add_done_callback(go_on)
    return result


class Submission(APIFuture[T]):
    """What an `…_async` call that submits work returns: awaiting it gives a future, as hosted clients do; older code
    uses it as that future at once.
    """

    def __await__(self) -> Generator[Any, None, Any]:
        return self._submitted().__await__()

    async def _submitted(self) -> APIFuture[T]:
        return APIFuture(self._future, self._convert)


def submitted(method: Callable[P, APIFuture[T]]) -> Callable[P, Submission[T]]:
    """The `…_async` twin of a method that submits work."""

    @functools.wraps(method)
    def twin(*args: P.args, **kwargs: P.kwargs) -> Submission[T]:
        made = method(*args, **kwargs)
        return Submission(made._future, made._convert)

    return twin


class Ready:
    """A client that is there at once, where code for hosted clients may expect the future of one."""

    def result(self, timeout: float | None = None) -> Any:
        """Itself."""
        return self

    async def result_async(self, timeout: float | None = None) -> Any:
        """Itself."""
        return self

    def __deepcopy__(self, memo: object) -> Any:
        """Itself: it stands for what is on the other side, which a copy of the settings that hold it does not copy."""
        return self

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result_async().__await__()


class Unanswered:
    """Futures of requests until they are set, each once. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._futures: set[Future[Any]] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._futures)

    def new(self) -> Future[Any]:
        """A further one."""
        future: Future[Any] = Future()
        with self._lock:
            self._futures.add(future)
        return future

    def ask(self, future: Future[Any], begin: Callable[[], Future[T]], answer: Callable[[T], Any]) -> None:
        """Sets the future to what `answer` makes of the result of `begin()`; to cancel it cancels that one."""
        try:
            reply = begin()
        except Exception as error:  # it belongs to the caller
            self._set(future, functools.partial(_raise, error))
            return
        reply.add_done_callback(lambda done: self._set(future, lambda: answer(done.result())))
        future.add_done_callback(lambda _: reply.cancel())

    def fail(self, error: Exception) -> None:
        """Sets all of them to the error."""
        for future in list(self._futures):
            self._set(future, functools.partial(_raise, error))

    def _set(self, future: Future[Any], make: Callable[[], Any]) -> None:
        with self._lock:
            if future not in self._futures:
                return
            self._futures.discard(future)
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(make())
            except Exception as error:  # it belongs to the caller
                if not isinstance(error, ThumbsError):
                    log.exception("a request for samples failed")
                future.set_exception(error)


def _raise(error: Exception) -> None:
    raise error
