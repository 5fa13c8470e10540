"""Objects that the tests put into other processes."""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading

from thumbs.errors import DataError
from thumbs.workers.base import progress


class LineError(DataError):
    """It has other arguments than its message, so pickle cannot make it again."""

    def __init__(self, file: str, line: int) -> None:
        super().__init__(f"{file}:{line}: no")


def explode() -> None:
    raise ImportError("it is only there")


class Unreadable:
    """It travels, and cannot be made at the other end."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return explode, ()


class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, by: int = 1) -> int:
        self.count += by
        return self.count

    def where(self) -> tuple[int, str | None]:
        sys.stdout.write("counting here\n")
        return os.getpid(), os.environ.get("OMP_NUM_THREADS")

    def lack(self) -> None:
        raise LineError("rows.jsonl", 3)

    def refuse(self) -> None:
        raise DataError("datum 3: no")

    def break_down(self) -> None:
        progress("micro-batch 2 of 5")
        raise KeyError("seven")

    def unreadable(self) -> object:
        return Unreadable()

    def unsendable(self) -> object:
        return threading.Lock()

    def wait(self) -> None:
        progress("the gate")
        sys.stdout.write("about to wait\n")
        threading.Event().wait()

    def stop_within_answer(self) -> None:
        """Only over pipes."""
        os.write(int(sys.argv[1]), struct.pack("!i", 10**8) + b"the beginning")
        os.kill(os.getpid(), signal.SIGSTOP)

    def die(self, code: int) -> None:
        os._exit(code)


def broken() -> None:
    raise DataError("no such model")


def never() -> None:
    Counter(0).wait()
