"""Workers as subprocesses of this machine, over a pipe each. They end when the driver does, however it ends."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from thumbs.workers.base import PATIENCE_S, STARTING_S, RemoteWorker, WorkerSpec, results
from thumbs.workers.calls import Calls
from thumbs.workers.logs import WorkerLogs

CLOSING_S = 5.0
"""Seconds that a process has to end by itself."""


class PipeWorker:
    """A subprocess. One thread reads what it sends, and another sees to it that nobody waits too long.

    The end of the pipe is the end of the worker.
    """

    address = "127.0.0.1"

    def __init__(self, spec: WorkerSpec, log: Path, patience_s: float) -> None:
        self.name = f"{spec.name} on {socket.gethostname()}"
        self._calls = Calls(self.name, log, patience_s)
        ours, theirs = socket.socketpair()
        modules = os.pathsep.join(filter(None, sys.path)) if spec.python is None else str(_lent(log.parent))
        environment = {**os.environ, **spec.environment, "PYTHONPATH": modules}
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 (an interpreter, a module of ours)
                [spec.python or sys.executable, "-m", "thumbs.workers.serve", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._end_of_ours, self._pipe = ours, Connection(os.dup(ours.fileno()))
        self._sending, self._ended = threading.Lock(), threading.Event()
        self._reader = threading.Thread(target=self._listen, name=f"replies of {self.name}", daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, name=f"progress of {self.name}", daemon=True).start()
        self.made = self._ask("its factory", STARTING_S, spec.factory, spec.args, {})

    def call(self, method: str, *args: Any, patience_s: float | None = None, **kwargs: Any) -> Future[Any]:
        return self._ask(method, patience_s, method, args, kwargs)

    def alive(self) -> bool:
        return self._calls.end is None and self.process.poll() is None

    @property
    def failed(self) -> bool:
        """Whether its log may be wanted."""
        return self._calls.failed

    def close(self) -> None:
        self._calls.close()
        with contextlib.suppress(OSError):  # the other end is gone already
            self._end_of_ours.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._end_of_ours.close()

    def _ask(
        self, what: str, patience_s: float | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        with self._sending:
            number, future = self._calls.add(what, patience_s)
            if number:
                try:
                    message = pickle.dumps((number, method, args, kwargs), protocol=pickle.HIGHEST_PROTOCOL)
                except Exception as error:
                    self._calls.answer(number, None, error)
                    return future
                with contextlib.suppress(OSError):  # the reader sees the same end, and tells all that wait
                    self._pipe.send_bytes(message)
        return future

    def _listen(self) -> None:
        calls = self._calls
        try:
            while True:
                self._hear(*pickle.loads(self._pipe.recv_bytes()))  # noqa: S301 (our own child wrote it)
        except (EOFError, OSError):
            pass
        except Exception as error:  # an answer whose class is not to be had here; whoever waits must not wait for ever
            self.process.kill()
            calls.finish(f"sent what cannot be read here ({type(error).__name__}: {error})")
        self._ended.set()
        try:
            code = self.process.wait(CLOSING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        calls.finish(f"ended with {f'signal {-code}' if code < 0 else f'exit status {code}'}")
        self._pipe.close()

    def _watch(self) -> None:
        """Ends a worker that is overdue, also one that stands still in the middle of an answer."""
        while not self._ended.wait(min(1.0, self._calls.patience_s / 4)):
            if reason := self._calls.overdue():
                self._calls.finish(reason, stuck=True)
                self.process.kill()

    def _hear(self, kind: str, number: int, value: Any) -> None:
        if kind == "beat":
            self._calls.alive()
        elif kind == "event":
            self._calls.moved(value)
        elif kind == "done":
            self._calls.answer(number, value)
        else:
            self._calls.answer(number, None, value)


class PipeCrew:
    """Starts workers on this machine. logs: folder for what they print (None: a temporary one, which is removed in the
    end unless a worker failed).

    patience_s: seconds without any sign of life after which a worker that has something to do counts as stuck.
    """

    def __init__(self, logs: Path | None = None, *, patience_s: float = PATIENCE_S) -> None:
        self._logs, self._patience_s = WorkerLogs(logs), patience_s
        self._workers: list[PipeWorker] = []

    @property
    def logs(self) -> Path:
        return self._logs.folder

    def start(self, specs: Sequence[WorkerSpec]) -> list[RemoteWorker]:
        started = [PipeWorker(spec, self.logs / spec.log_name, self._patience_s) for spec in specs]
        self._workers += started
        try:
            results(worker.made for worker in started)
        except BaseException:
            for worker in started:
                worker.close()
            raise
        return list(started)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()
        self._logs.close(keep=any(worker.failed for worker in self._workers))
        self._workers = []


def _lent(folder: Path) -> Path:
    """A folder in which thumbs alone is found: what else is installed next to it is another environment's."""
    place = folder / "lent"
    place.mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (place / "thumbs").symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)
    return place
