"""Workers as actors of a Ray cluster: of the one that is running, or of one that is started on this machine.

A cluster counts as running where RAY_ADDRESS names it, or where `ray start` was called on this machine.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from thumbs.config.named import load_callable
from thumbs.errors import ConfigError, WorkerLost, needs
from thumbs.workers.base import PATIENCE_S, STARTING_S, RemoteWorker, WorkerSpec, listen, results
from thumbs.workers.calls import Calls, portable
from thumbs.workers.logs import WorkerLogs

OPENING_S, PLACING_S, ANSWERING_S = 240, 60.0, 10.0
"""Seconds that Ray may take to start on a busy machine, to find room for the workers, and to answer."""


def noted_cluster() -> str | None:
    """The address of the cluster that `ray start` has noted on this machine."""
    folders = [os.environ.get(name) for name in ("RAY_TMPDIR", "TMPDIR")]
    note = Path(next(filter(None, folders), "/tmp"), "ray", "ray_current_cluster")  # noqa: S108 (where Ray looks)
    return note.read_text(encoding="utf-8").strip() if note.exists() else None


def _require_answer(address: str) -> None:
    """Raises ConfigError if nobody listens there; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWERING_S).close()
    except OSError as error:
        raise ConfigError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head`; `ray stop` clears what "
            "is left of one that has gone"
        ) from error


class NotPlacedError(WorkerLost):
    """An actor was lost before anything was made in it: its node has gone, say."""


class Actor:
    """What runs in an actor's process: one object, whose methods are called one after the other."""

    def __init__(self, log: str) -> None:
        with contextlib.suppress(OSError), Path(log).open("ab") as output:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
        self._made: Any = None
        self._seen: tuple[int, Any] = (0, None)
        listen(self._note)

    def _note(self, event: Any) -> None:
        self._seen = (self._seen[0] + 1, event)

    def machine(self) -> tuple[str, str]:
        """Name and address of its machine."""
        import ray  # pyright: ignore[reportMissingImports] (an extra)

        return socket.gethostname(), ray.util.get_node_ip_address()

    def progress(self) -> tuple[int, Any]:
        """How often it has said where it is, and where it was last; it answers while a method runs."""
        return self._seen

    def do(self, message: bytes) -> bytes:
        """(result, error as it travels, where it was last) of (method, args, kwargs), the first of which names what
        makes the object.

        Pickled by ourselves, since arrays that Ray shares could not be written to.
        """
        self._note(None)
        method, args, kwargs = pickle.loads(message)  # noqa: S301 (the driver wrote it)
        try:
            if self._made is not None:
                value = getattr(self._made, method)(*args, **kwargs)
            else:
                self._made, value = load_callable(method)(*args, **kwargs), None
            return _pickled((value, None, self._seen[1]))
        except Exception as error:
            trace = traceback.format_exc()
            try:
                return _pickled((None, portable(error, trace), self._seen[1]))
            except (TypeError, AttributeError, pickle.PicklingError):
                return _pickled((None, (f"{type(error).__name__}: {error}", trace), self._seen[1]))
        except BaseException:
            traceback.print_exc()
            os._exit(1)


class RayWorker:
    """An actor. A thread of its own asks every second whether it goes on."""

    def __init__(self, spec: WorkerSpec, actor: Any, log: Path, patience_s: float) -> None:
        import ray  # pyright: ignore[reportMissingImports] (an extra)

        self._ray, self._actor = ray, actor
        try:
            host, self.address = ray.get(actor.machine.remote(), timeout=OPENING_S)
        except self._ray.exceptions.RayError as error:
            raise NotPlacedError(f"{spec.name} was not started: {_first_line(error)}") from error
        self.name = f"{spec.name} on {host}"
        self._calls, self._count = Calls(self.name, log, patience_s), 0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"progress of {self.name}", daemon=True)
        self._watcher.start()
        self.made = self._ask("its factory", STARTING_S, spec.factory, spec.args, {})

    def call(self, method: str, *args: Any, patience_s: float | None = None, **kwargs: Any) -> Future[Any]:
        return self._ask(method, patience_s, method, args, kwargs)

    def alive(self) -> bool:
        return self._calls.end is None

    @property
    def failed(self) -> bool:
        """Whether its log may be wanted."""
        return self._calls.failed

    def close(self) -> None:
        self._calls.close()
        self._ended.set()
        self._watcher.join()

    def _ask(
        self, what: str, patience_s: float | None, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[Any]:
        message = _pickled((method, args, kwargs))
        number, future = self._calls.add(what, patience_s)
        if number:
            asked = self._actor.do.remote(message)
            asked.future().add_done_callback(lambda done: self._hear(number, done))
        return future

    def _hear(self, number: int, done: Future[Any]) -> None:
        error = done.exception()
        if error is None:
            try:
                value, error, event = pickle.loads(done.result())  # noqa: S301 (our own worker wrote it)
            except Exception as unreadable:  # an answer whose class is not to be had here
                return self._calls.answer(number, None, portable(unreadable, traceback.format_exc()))
            self._calls.moved(event)
            self._calls.answer(number, value, error)
        elif isinstance(error, self._ray.exceptions.RayActorError):
            self._calls.finish(f"died ({_first_line(error)})")
            self._ended.set()  # the actor is not killed here: within a callback, Ray waits for itself
        else:
            self._calls.answer(number, None, portable(error, str(error)))

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._calls.patience_s / 4)):
            asked = self._actor.progress.remote()
            if self._ray.wait([asked], timeout=self._calls.patience_s / 2)[0]:
                try:
                    count, event = self._ray.get(asked)
                except self._ray.exceptions.RayError:
                    continue  # whoever waits for it is told so
                self._calls.alive()
                if count != self._count:
                    self._count = count
                    self._calls.moved(event)
            if reason := self._calls.overdue():
                self._calls.finish(reason, stuck=True)
                break
        self._ray.kill(self._actor)


class RayCrew:
    """Starts workers wherever the cluster has room. logs: a folder that all its machines see (None: a temporary one,
    which is removed in the end unless a worker failed).

    patience_s: seconds without any sign of life after which a worker that has something to do counts as stuck.
    """

    @needs("cluster", "a cluster of Ray")
    def __init__(self, logs: Path | None = None, *, patience_s: float = PATIENCE_S) -> None:
        import ray  # pyright: ignore[reportMissingImports] (an extra)

        self._ray, self._patience_s = ray, patience_s
        self._logs = WorkerLogs(logs)
        self._workers: list[RayWorker] = []
        self._groups: list[Any] = []
        self._bundles: dict[str, dict[str, Any]] = {}
        if not ray.is_initialized():
            os.environ.setdefault("RAY_raylet_start_wait_time_s", str(OPENING_S))
            here: dict[str, Any] = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
            running = os.environ.get("RAY_ADDRESS") or noted_cluster()
            if running:
                _require_answer(running)
            ray.init(log_to_driver=False, **({} if running else here))
        atexit.register(self.close)  # before Ray's own end, after which a question would start it again

    @property
    def logs(self) -> Path:
        return self._logs.folder

    def start(self, specs: Sequence[WorkerSpec]) -> list[RemoteWorker]:
        if others := [spec.python for spec in specs if spec.python is not None]:
            raise ConfigError(
                f"got the interpreter {others[0]}; actors of Ray run in the environment of Ray. Install what the "
                "workers need there and leave rollout.python out, or take engine.launcher pipes"
            )
        until = time.monotonic() + PLACING_S
        while True:
            try:
                started = self._start(specs)
                break
            except NotPlacedError:  # Ray may place on a node that has gone until it has noticed that
                if time.monotonic() > until:
                    raise
                time.sleep(2.0)
        return list(started)

    def _start(self, specs: Sequence[WorkerSpec]) -> list[RayWorker]:
        options = self._places(specs)
        make = self._ray.remote(concurrency_groups={"watch": 1})(_watched(self._ray))
        started: list[RayWorker] = []
        try:
            actors = []
            for spec, own in zip(specs, options, strict=True):
                variables = {**spec.environment, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                log = self.logs / spec.log_name
                actors.append(make.options(runtime_env={"env_vars": variables}, **own).remote(str(log)))
            for spec, actor in zip(specs, actors, strict=True):
                started.append(RayWorker(spec, actor, self.logs / spec.log_name, self._patience_s))
            self._workers += started
            results(worker.made for worker in started)
        except BaseException:
            for worker in started:
                worker.close()
            raise
        return started

    def close(self) -> None:
        atexit.unregister(self.close)
        for worker in self._workers:
            worker.close()
        for group in self._groups:
            self._ray.util.remove_placement_group(group)
        self._logs.close(keep=any(worker.failed for worker in self._workers))
        self._workers, self._groups, self._bundles = [], [], {}

    def _places(self, specs: Sequence[WorkerSpec]) -> list[dict[str, Any]]:
        """Where each worker goes: those that need devices as near to each other as can be, all of them or none.

        One that takes the place of another of its name has the devices of that one.
        """
        if not any(spec.gpus for spec in specs):
            return [{"scheduling_strategy": "SPREAD"} for _ in specs]
        if all(spec.name in self._bundles for spec in specs):
            return [self._bundles[spec.name] for spec in specs]
        group = self._ray.util.placement_group([{"CPU": 1, "GPU": spec.gpus} for spec in specs], strategy="PACK")
        if not group.wait(PLACING_S):
            there = self._ray.cluster_resources()
            self._ray.util.remove_placement_group(group)
            raise ConfigError(
                f"{len(specs)} workers need {sum(spec.gpus for spec in specs):g} GPUs and a CPU each; the cluster has "
                f"{there.get('GPU', 0):g} GPUs and {there.get('CPU', 0):g} CPUs. Add machines or lower workers"
            )
        self._groups.append(group)
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy
        for i, spec in enumerate(specs):
            place = strategy(group, placement_group_bundle_index=i)
            self._bundles[spec.name] = {"num_gpus": spec.gpus, "num_cpus": 1, "scheduling_strategy": place}
        return [self._bundles[spec.name] for spec in specs]


def _watched(ray: Any) -> type:
    """The actor's class with a thread of its own for `progress`."""

    class Watched(Actor):
        @ray.method(concurrency_group="watch")
        def progress(self) -> tuple[int, Any]:
            return super().progress()

    return Watched


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _pickled(value: Any) -> bytes:
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
