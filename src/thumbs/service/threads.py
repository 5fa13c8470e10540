"""The threads outside of the event loop: few, and in two pools."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Threads:
    """Runs what would block the loop.

    Records of the store have threads of their own: a checkpoint that loads for seconds must not hold up a heartbeat.
    """

    def __init__(self) -> None:
        self._records = ThreadPoolExecutor(4, "thumbs-records")
        self._work = ThreadPoolExecutor(8, "thumbs-work")

    async def record(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns; for short transactions."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._records, call)

    async def work(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What `function` returns; for decoding, loading and everything else that may take long."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._work, call)

    def close(self) -> None:
        """Starts nothing more; what runs goes on to its end."""
        self._records.shutdown(wait=False, cancel_futures=True)
        self._work.shutdown(wait=False, cancel_futures=True)
