"""Waiting for what a client's methods return: the result, a future, or something to await."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


async def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a client's method that may block, from a thread, whether it returns a future or the result."""
    return await asyncio.to_thread(lambda: finished(method(*args, **kwargs)))


def finished(value: Any) -> Any:
    """The result of a future, waited for; anything else as it is."""
    return value.result() if hasattr(value, "result") else value


async def resolved(future: Any) -> Any:
    """The result of a future of any client, without a thread: hundreds may be waited for at once."""
    if hasattr(future, "result_async"):
        return await future.result_async()
    return await (asyncio.wrap_future(future) if isinstance(future, Future) else future)
