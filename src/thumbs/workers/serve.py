"""The other end of a pipe: `python -m thumbs.workers.serve FD` makes one object and does what it is asked."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import Any

from thumbs.config.named import load_callable
from thumbs.workers.base import listen
from thumbs.workers.calls import portable

BEAT_S = 1.0
"""Seconds between signs of life."""


class Server:
    """Does calls in order until the pipe ends. The first one names the factory of the object."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()
        self._asked: queue.SimpleQueue[tuple[int, str, tuple[Any, ...], dict[str, Any]]] = queue.SimpleQueue()
        self._made: Any = None

    def run(self) -> None:
        """Never returns."""
        for loop in (self._read, self._beat):
            threading.Thread(target=loop, daemon=True).start()
        listen(lambda event: self._send("event", value=event))
        while True:
            number, method, args, kwargs = self._asked.get()
            try:
                self._send("done", number, self._do(method, args, kwargs))
            except Exception as error:
                self._send_error(number, error, traceback.format_exc())

    def _do(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._made is not None:
            return getattr(self._made, method)(*args, **kwargs)
        self._made = load_callable(method)(*args, **kwargs)
        return None

    def _send_error(self, number: int, error: Exception, trace: str) -> None:
        try:
            self._send("error", number, portable(error, trace))
        except (TypeError, AttributeError, pickle.PicklingError):
            self._send("error", number, (f"{type(error).__name__}: {error}", trace))

    def _send(self, kind: str, number: int = 0, value: Any = None) -> None:
        content = pickle.dumps((kind, number, value), protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            self._pipe.send_bytes(content)

    def _read(self) -> None:
        try:
            while True:
                self._asked.put(pickle.loads(self._pipe.recv_bytes()))  # noqa: S301 (our own parent wrote it)
        except (EOFError, OSError):
            os._exit(0)  # whatever is being computed, nobody waits for it

    def _beat(self) -> None:
        silence = threading.Event()
        while not silence.wait(BEAT_S):
            self._send("beat")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's affair
    Server(Connection(int(sys.argv[1]))).run()
