"""A worker in a process of its own, in the environment that it needs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from environments import python_of
from jobs import Job, Worker

HERE = Path(__file__).parent

FAILURES = (ChildProcessError, BrokenPipeError, subprocess.CalledProcessError)
"""Of one worker, its environment included; the others go on without it."""

Figures = dict[str, Any]


class Process:
    """A worker that runs: says when it is ready, works when it is told to.

    settings: of this worker, over those of the job and the worker; `env` in them are variables of its environment.
    """

    def __init__(
        self, job: Job, worker: Worker, common: dict[str, Any], settings: dict[str, Any], limit: float | None = None
    ) -> None:
        self.log = HERE / ".logs" / f"{job.name}-{worker.name}.log"
        self.log.parent.mkdir(exist_ok=True)
        told: dict[str, Any] = common | job.settings | worker.settings | settings | {"batches": job.batches}
        self.process = subprocess.Popen(  # noqa: S603
            [python_of(worker.environment), HERE / "workers" / worker.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
            start_new_session=True,
            env=os.environ
            | {"OMP_NUM_THREADS": str(told["threads"]), "HF_HUB_OFFLINE": "1"}
            | ({"CUDA_VISIBLE_DEVICES": ""} if told["device"] == "cpu" else {})  # ours takes a GPU that it sees
            | told.pop("env", {}),
        )
        try:
            with self._within(limit):
                self._write(told)
                self.versions = self._read()["versions"]
        except FAILURES:
            self.stop()
            raise

    def turn(self, number: int, limit: float | None = None) -> Figures:
        """One measurement; a worker that takes longer than `limit` seconds is ended, which is an error."""
        with self._within(limit):
            self._write({"turn": number})
            return self._read() | {"peak_bytes": peak_memory(self.process.pid)}

    def stop(self) -> None:
        """Ends the worker and what it started: engines that are servers leave processes behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @contextmanager
    def _within(self, limit: float | None) -> Iterator[None]:
        if limit is None:
            yield
            return
        late = threading.Event()
        timer = threading.Timer(limit, lambda: (late.set(), self.stop()))
        timer.start()
        try:
            yield
        except FAILURES as error:
            if late.is_set():
                raise ChildProcessError(f"{self.log.stem} took more than {limit:.0f} s and was ended") from error
            raise
        finally:
            timer.cancel()

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None  # noqa: S101
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # noqa: S101
        line = self.process.stdout.readline()
        if not line:
            last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise ChildProcessError(f"{self.log.stem} ended: {' '.join(last)} (all of it: {self.log})")
        return json.loads(line)


def peak_memory(session: int) -> int:
    """Bytes: the most that each process of a worker's session ever had in memory, added up."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            if os.getsid(int(folder.name)) == session:
                lines = (folder / "status").read_text(encoding="utf-8").splitlines()
                total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return total
