"""Workers as subprocesses of this machine, over a pipe each. They end when the driver does, however it ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from thumbs.errors import WorkerLost, WorkerStuck
from thumbs.workers.base import PATIENCE_S, RemoteWorker, WorkerSpec, at_event, log_tail, on_host, remote_error, results

CLOSING_S = 5.0
"""Seconds that a process has to end by itself."""


@dataclass
class _Call:
    method: str
    patience_s: float | None
    future: Future[Any] = field(default_factory=Future)


class PipeWorker:
    """A subprocess. A thread of its own reads what it sends; the end of the pipe is the end of the worker."""

    address = "127.0.0.1"

    def __init__(self, spec: WorkerSpec, log: Path, patience_s: float) -> None:
        self.name, self.log, self._patience_s = on_host(spec.name), log, patience_s
        ours, theirs = socket.socketpair()
        environment = {**os.environ, **spec.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 (this interpreter, a module of ours)
                [sys.executable, "-m", "thumbs.workers.serve", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._end_of_ours, self._pipe = ours, Connection(os.dup(ours.fileno()))
        self._lock, self._numbers = threading.Lock(), itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._event: Any = None
        self._moved = self._beat = time.monotonic()
        self._end: str | None = None
        self._reader = threading.Thread(target=self._listen, name=f"replies of {self.name}", daemon=True)
        self._reader.start()
        self.made = self._ask(_Call("its factory", None), spec.factory, spec.args, {})

    def call(self, method: str, *args: Any, patience_s: float | None = None, **kwargs: Any) -> Future[Any]:
        return self._ask(_Call(method, patience_s), method, args, kwargs)

    def alive(self) -> bool:
        return self._end is None and self.process.poll() is None

    def close(self) -> None:
        with self._lock:
            self._end = self._end or "was closed"
        with contextlib.suppress(OSError):  # the other end is gone already
            self._end_of_ours.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._end_of_ours.close()

    def _ask(self, call: _Call, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        message = (next(self._numbers), method, args, kwargs)
        content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            if self._end is not None:
                call.future.set_exception(self._lost(call, self._end))
                return call.future
            if not self._calls:
                self._event, self._moved = None, time.monotonic()
            self._calls[message[0]] = call
            with contextlib.suppress(OSError):  # the reader sees the same end, and tells all that wait
                self._pipe.send_bytes(content)
        return call.future

    def _listen(self) -> None:
        try:
            while self._end is None:
                if self._pipe.poll(min(1.0, self._patience_s / 4)):
                    self._hear(*pickle.loads(self._pipe.recv_bytes()))  # noqa: S301 (our own child wrote it)
                else:
                    self._look()
        except (EOFError, OSError):
            pass
        code = self._wait()
        self._finish(f"ended with {_ending(code)}")
        self._pipe.close()

    def _hear(self, kind: str, number: int, value: Any) -> None:
        now = time.monotonic()
        with self._lock:
            self._beat = now
            if kind == "beat":
                return
            self._moved = now
            if kind == "event":
                self._event = value
                return
            call, event = self._calls.pop(number), self._event
            self._event = None
        if not call.future.set_running_or_notify_cancel():
            return
        if kind == "done":
            call.future.set_result(value)
        else:
            call.future.set_exception(remote_error(self.name, call.method, value, event, self.log))

    def _look(self) -> None:
        """Ends a worker that has been silent for too long."""
        with self._lock:
            if not self._calls:
                self._beat = time.monotonic()
                return
            first = next(iter(self._calls.values()))
            now = time.monotonic()
            silent, still = now - self._beat, now - self._moved
        if silent > self._patience_s:
            reason = f"gave no sign of life for {silent:.0f} s"
        elif first.patience_s is not None and still > first.patience_s:
            reason = f"made no progress for {still:.0f} s, and {first.patience_s:.0f} s were allowed"
        else:
            return
        self.process.kill()
        self._finish(reason, stuck=True)

    def _wait(self) -> int:
        try:
            return self.process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _finish(self, reason: str, *, stuck: bool = False) -> None:
        with self._lock:
            self._end = self._end or reason
            waiting, self._calls = list(self._calls.values()), {}
        for call in waiting:
            if call.future.set_running_or_notify_cancel():
                call.future.set_exception(self._lost(call, self._end, stuck=stuck))

    def _lost(self, call: _Call, reason: str, *, stuck: bool = False) -> WorkerLost:
        error = WorkerStuck if stuck else WorkerLost
        return error(f"{self.name} {reason}, during {call.method}{at_event(self._event)}.{log_tail(self.log)}")


class PipeCrew:
    """Starts workers on this machine. logs: folder for what they print (None: a temporary one).

    patience_s: seconds without any sign of life after which a worker that has something to do counts as stuck.
    """

    def __init__(self, logs: Path | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self.logs = logs or Path(tempfile.mkdtemp(prefix="thumbs-logs-"))
        self._patience_s = patience_s
        self._workers: list[PipeWorker] = []

    def start(self, specs: Sequence[WorkerSpec]) -> list[RemoteWorker]:
        self.logs.mkdir(parents=True, exist_ok=True)
        started = [PipeWorker(spec, self.logs / spec.log_name, self._patience_s) for spec in specs]
        try:
            results(worker.made for worker in started)
        except BaseException:
            for worker in started:
                worker.close()
            raise
        self._workers += started
        return list(started)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._workers = []


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit status {code}"
