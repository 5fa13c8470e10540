"""Samplers whose requests other processes draw.

A reply depends on its request and its weights alone, so it does not show which worker drew it, what else it had to do,
or that another one died over it.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from thumbs.config.engine import RolloutConfig
from thumbs.errors import WorkerLost
from thumbs.models.trunk import MODULES
from thumbs.records import Sample
from thumbs.rollout.orders import Drawn, Order, PublishedWeights, WorkerNews
from thumbs.rollout.publish import Published, Shelf
from thumbs.rollout.sampler import PromptAnswer, Sampler, SampleReply, SampleRequest, Top, check_requests
from thumbs.workers.base import Crew, RemoteWorker, WorkerSpec
from thumbs.workers.pipes import PipeCrew

log = logging.getLogger(__name__)

AHEAD = 256
"""Samples that a worker has at a time: enough to fill its batch, few enough that slow ones leave the rest to others."""

LOSSES = 3
"""Workers that a request may lose before it is taken for the cause, and that may be lost as they start."""

PATIENCE_S = 600.0
"""Seconds that a worker may take to read weights, or for one step, before it counts as stuck."""


class RemoteSampler(Sampler):
    """Published weights, which the workers hold as long as this sampler or a request of it lives.

    checksums: SHA-256 of each tensor that was published.
    """

    def __init__(
        self, pool: RemoteSamplers, weights: PublishedWeights, published: Published, checksums: dict[str, str]
    ) -> None:
        self.pool, self.weights, self.policy_version = pool, weights, weights.version
        self.reads_prompts = pool.reads_prompts
        self.checksums, self.decode_text, self._context = checksums, published.decode_text, published.context

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        """Raises as `check_requests`, and for what the workers' kind of sampler cannot do."""
        check_requests(requests, self._context, decodes=self.decode_text is not None)
        for request in requests:
            self.pool.check(request, self._context)
        return self.pool.add([_Job(self, request) for request in requests])


class _Job:
    """A request with what is known of its samples; told: tokens of each sample that `on_token` has heard."""

    def __init__(self, sampler: RemoteSampler, request: SampleRequest) -> None:
        self.sampler, self.request, self.future = sampler, request, Future[SampleReply]()
        self.told = Counter[int]()
        self._samples: dict[int, tuple[Sample, Sequence[Top]]] = {}
        self._about: PromptAnswer | None = None

    def parts(self) -> list[_Part]:
        """The whole, or one part a sample where stop strings end each of them on its own."""
        count, one = len(self.request.seeds), bool(self.request.params.stop_strings)
        return [_Part(self, range(i, i + 1)) for i in range(count)] if one and count else [_Part(self, range(count))]

    def take(self, part: _Part, reply: SampleReply) -> None:
        """Keeps the samples of a part; with the last of them the request is answered."""
        self._samples |= dict(zip(part.numbers, zip(reply.samples, reply.top, strict=True), strict=True))
        self._about = self._about or reply.prompt
        count = len(self.request.seeds)
        if len(self._samples) == count and self.future.set_running_or_notify_cancel():
            samples, top = zip(*(self._samples[i] for i in range(count)), strict=True) if count else ((), ())
            self.future.set_result(SampleReply(samples, top, self._about))

    def fail(self, error: Exception) -> None:
        """Hands an error to whoever waits."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False)
class _Part:
    """Samples of a request that one worker draws, by their numbers. lost: workers that died over it."""

    job: _Job
    numbers: range
    lost: int = 0
    heard: Counter[int] = field(default_factory=Counter)
    tokens: list[Drawn] = field(default_factory=list)

    def order(self, number: int) -> Order:
        """What a worker is asked for: stop strings are looked for here, where tokens can be decoded."""
        asked = self.job.request
        seeds = list(asked.seeds[self.numbers.start : self.numbers.stop])
        request = replace(
            asked,
            prompt=list(asked.prompt),
            params=replace(asked.params, stop_strings=()),
            seeds=seeds,
            about_prompt=asked.about_prompt if self.numbers.start == 0 else None,
            on_token=None,
        )
        hears = asked.on_token is not None or bool(asked.params.stop_strings)
        return Order(number, self.job.sampler.weights, request, hears)

    def begin_again(self) -> None:
        """Another worker draws it from the start."""
        self.lost += 1
        self.heard.clear()
        self.tokens.clear()

    def hear(self, news: Drawn) -> SampleReply | None:
        """Tells a token to whoever listens; returns the reply if it completes a stop string."""
        number = self.numbers.start + news.sample
        self.heard[number] += 1
        request, sampler = self.job.request, self.job.sampler
        if request.on_token is not None and self.heard[number] > self.job.told[number]:
            self.job.told[number] += 1
            request.on_token(number, news.token, news.logprob, news.top)
        stops = request.params.stop_strings
        if not stops or news.token in request.params.stop_tokens or sampler.decode_text is None:
            return None
        self.tokens.append(news)
        text = sampler.decode_text([each.token for each in self.tokens])
        if not any(stop in text for stop in stops):
            return None
        sample = Sample(
            np.array([each.token for each in self.tokens], dtype=np.int64),
            np.array([each.logprob for each in self.tokens], dtype=np.float32),
            "stop",
            sampler.policy_version,
        )
        return SampleReply([sample], [[each.top for each in self.tokens] if request.top else []])


@dataclass(eq=False)
class _Desk:
    """A worker with what it has: parts by the numbers of their orders, orders and cancellations yet to be sent."""

    worker: RemoteWorker
    spec: WorkerSpec
    held: dict[int, _Part] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    talking: bool = False

    @property
    def load(self) -> int:
        """Samples that it has to draw."""
        return sum(len(part.numbers) for part in self.held.values())

    def drop(self, number: int) -> None:
        """Takes an order back."""
        if self.held.pop(number, None) is not None:
            self.orders = [order for order in self.orders if order.number != number]
            self.cancelled.append(number)


class RemoteSamplers:
    """Opens samplers of published weights; the workers are started with the first one.

    specs: the workers. crew: what starts them (None: subprocesses of this machine). check: raises ConfigError for a
    request that the workers cannot answer as it is meant, given the model's context. reads_prompts: see `Sampler`.
    """

    def __init__(
        self,
        specs: Sequence[WorkerSpec],
        crew: Crew | None = None,
        check: Callable[[SampleRequest, int], None] = lambda request, context: None,
        *,
        reads_prompts: bool = True,
    ) -> None:
        self.check, self.reads_prompts = check, reads_prompts
        self._specs, self._crew, self._shelf = specs, crew or PipeCrew(), Shelf()
        self._desks: list[_Desk] = []
        self._waiting: deque[_Part] = deque()
        self._replacing = 0
        self._numbers = itertools.count(1)
        self._gone: deque[int] = deque()
        self._lock = threading.RLock()
        self._end = weakref.finalize(self, _end, self._crew if crew is None else None, self._shelf, self._desks)

    def __call__(self, published: Published) -> RemoteSampler:
        """A sampler of the weights as they are now."""
        self._start()
        self._free()
        key = next(self._numbers)
        folder, checksums = self._shelf.put(key, published)
        name = published.model.name
        module = MODULES.reference(name) if name in MODULES else None
        weights = PublishedWeights(
            key,
            folder,
            published.model,
            published.seed,
            published.version,
            module,
            published.shared,
            published.client,
        )
        sampler = RemoteSampler(self, weights, published, checksums)
        weakref.finalize(sampler, self._gone.append, key)
        return sampler

    @property
    def workers(self) -> list[RemoteWorker]:
        """Those that live."""
        with self._lock:
            return [desk.worker for desk in self._desks]

    def add(self, jobs: Sequence[_Job]) -> list[Future[SampleReply]]:
        """Queues requests; returns their futures."""
        self._start()
        for job in jobs:
            # Not the job itself, which holds the future: a circle would keep its weights.
            job.future.add_done_callback(partial(self._settled, weakref.ref(job)))
        with self._lock:
            self._waiting.extend(part for job in jobs for part in job.parts())
        self._deal()
        return [job.future for job in jobs]

    def close(self) -> None:
        """Ends the workers; what waits fails."""
        self._end()

    def _start(self) -> None:
        with self._lock:
            if not self._desks and not self._replacing:
                started = self._crew.start(self._specs)
                self._desks += [_Desk(worker, spec) for worker, spec in zip(started, self._specs, strict=True)]

    def _free(self) -> None:
        """Forgets the weights of which no sampler is left."""
        gone = [self._gone.popleft() for _ in range(len(self._gone))]
        for key in gone:
            self._shelf.drop(key)
        if gone:
            for worker in self.workers:
                worker.call("forget", gone, patience_s=PATIENCE_S)

    def _deal(self) -> None:
        """Hands out what waits, each part to the worker that has least to do, and talks to those that have news."""
        with self._lock:
            while self._waiting and (free := [desk for desk in self._desks if desk.load < AHEAD]):
                part = self._waiting.popleft()
                if not part.job.future.done():
                    desk, number = min(free, key=lambda each: each.load), next(self._numbers)
                    desk.held[number] = part
                    desk.orders.append(part.order(number))
            for desk in list(self._desks):
                if not desk.talking and (desk.held or desk.cancelled):
                    self._talk(desk)

    def _talk(self, desk: _Desk) -> None:
        desk.talking = True
        orders, cancelled = desk.orders, desk.cancelled
        desk.orders, desk.cancelled = [], []
        talk = desk.worker.call("exchange", orders, cancelled, patience_s=PATIENCE_S)
        talk.add_done_callback(partial(self._heard, desk))

    def _heard(self, desk: _Desk, talk: Future[WorkerNews]) -> None:
        """What comes of an exchange; on the thread that reads the worker's pipe."""
        try:
            self._read(desk, talk.result())
        except WorkerLost as error:
            self._lost(desk, error)
            return
        except Exception as error:  # of the worker, or of ours: nobody may wait for ever
            with self._lock:
                failed, desk.held = list(desk.held.values()), {}
            for part in failed:
                part.job.fail(error)
        with self._lock:
            desk.talking = False
        self._deal()

    def _read(self, desk: _Desk, news: WorkerNews) -> None:
        for drawn in news.drawn:
            if (part := desk.held.get(drawn.order)) is None:
                continue
            try:
                reply = part.hear(drawn)
            except Exception as error:  # of whoever listens
                part.job.fail(error)
                reply = None
            if reply is not None:
                with self._lock:
                    desk.drop(drawn.order)
                part.job.take(part, reply)
        for number, answer in news.replies.items():
            with self._lock:
                part = desk.held.pop(number, None)
            if part is not None and isinstance(answer, Exception):
                part.job.fail(answer)
            elif part is not None and not isinstance(answer, Exception):
                part.job.take(part, answer)
        with self._lock:
            again = {number: desk.held[number] for number in news.missing if number in desk.held}
            desk.orders = [part.order(number) for number, part in again.items()] + desk.orders
        for weights in {(of := part.job.sampler.weights).key: of for part in again.values()}.values():
            files = {file.name: file.read_bytes() for file in weights.folder.iterdir()}
            desk.worker.call("receive", weights.key, files, patience_s=PATIENCE_S)

    def _lost(self, desk: _Desk, error: WorkerLost) -> None:
        """Gives what a dead worker had to the others, and replaces it."""
        with self._lock:
            if desk not in self._desks:
                return
            self._desks.remove(desk)
            parts = [part for part in desk.held.values() if not part.job.future.done()]
            for part in parts:
                part.begin_again()
            hopeless = [part for part in parts if part.lost > LOSSES] if self._end.alive else parts
            self._waiting.extendleft(part for part in reversed(parts) if part not in hopeless)
            self._replacing += self._end.alive
        for part in hopeless:
            part.job.fail(error)
        if not self._end.alive:
            return
        log.warning("%s\nIts %d requests go to other workers, and a new one takes its place", error, len(parts))
        threading.Thread(target=self._replace, args=(desk.spec,), name=f"new {desk.spec.name}", daemon=True).start()
        self._deal()

    def _replace(self, spec: WorkerSpec) -> None:
        worker, failed = None, None
        for _ in range(LOSSES):
            try:
                (worker,) = self._crew.start([spec])
                break
            except Exception as error:  # whoever waits gets it, unless others live
                log.warning("%s could not be started again: %s", spec.name, error)
                failed = error
                if not isinstance(error, WorkerLost) or not self._end.alive:
                    break
        left: list[_Part] = []
        with self._lock:
            self._replacing -= 1
            if worker is not None and self._end.alive:
                self._desks.append(_Desk(worker, spec))
            elif not self._desks and not self._replacing:
                left = list(self._waiting)
                self._waiting.clear()
        if worker is not None and not self._end.alive:
            worker.close()
        for part in left:
            part.job.fail(failed or WorkerLost(f"{spec.name} was closed"))
        self._deal()

    def _settled(self, settled: weakref.ref[_Job], future: Future[SampleReply]) -> None:
        """Takes back what is left of a request that was cancelled or failed."""
        job = settled()
        if job is None or (not future.cancelled() and future.exception() is None):
            return
        with self._lock:
            for desk in self._desks:
                for number in [number for number, part in desk.held.items() if part.job is job]:
                    desk.drop(number)
        self._deal()


def worker_specs(config: RolloutConfig, factory: str, *args: Any) -> list[WorkerSpec]:
    """As many workers as the config asks for, one at least, which share the cores of a machine."""
    count, gpus = max(config.workers, 1), config.gpus_per_worker
    threads = max((os.cpu_count() or 1) // count, 1)
    if gpus is None:
        gpus = config.tensor_parallel if torch.cuda.is_available() else 0
    return [
        WorkerSpec(f"sampler {number}", factory, args, threads, gpus, python=config.python) for number in range(count)
    ]


def _end(crew: Crew | None, shelf: Shelf, desks: list[_Desk]) -> None:
    """Ends the workers, and the crew if nobody else has it."""
    with suppress(RuntimeError):
        if crew is not None:
            crew.close()
        else:
            for desk in desks:
                desk.worker.close()
    shelf.close()
