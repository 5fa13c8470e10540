"""Sampling from our own weights: continuous batching for whoever asks, a stage or many clients.

`scheduler.py` says who is next, `batch.py` keeps rows and cache, `runner.py` computes. A sample depends on its own
prompt, settings and seed; with our kernels it has the same bits in any company.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from thumbs.config.engine import RolloutConfig
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.rollout.batch import DecodingBatch
from thumbs.rollout.publish import OpenSampler, Published
from thumbs.rollout.remote import RemoteSamplers, worker_specs
from thumbs.rollout.runner import Runner
from thumbs.rollout.sampler import DecodeText, Sampler, SampleReply, SampleRequest, check_requests
from thumbs.rollout.scheduler import DecodingRow, SampleJob, Scheduler
from thumbs.workers.base import Crew


class DecodingLoop:
    """Decodes for all samplers of one frozen model; `step` moves every row by one token.

    `decode_text` is needed only for stop strings. Jobs may be added from any thread.
    """

    def __init__(self, model: Trunk, decode_text: DecodeText | None = None) -> None:
        self.model, self.decode_text = model, decode_text
        self._scheduler, self._runner, self._batch = Scheduler(), Runner(model), DecodingBatch(model.context)
        self._unanswered: set[SampleJob] = set()
        self._lock = threading.RLock()

    def add(self, jobs: Sequence[SampleJob]) -> None:
        """Queues jobs."""
        with self._lock:
            for job in jobs:
                self._scheduler.add(job)
                self._unanswered.add(job)
                job.future.add_done_callback(lambda _, job=job: self._unanswered.discard(job))

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        with self._lock:
            return next(self._scheduler.jobs, None) is None and not self._batch.live

    def step(self) -> int:
        """One token for every row, new rows among them, or a part of the prompts; returns how many tokens were drawn.

        An error is handed to everyone who waits, and the loop begins afresh.
        """
        with self._lock, torch.no_grad():
            try:
                return self._step()
            except Exception as error:  # it belongs to whoever waits for a reply
                self._scheduler, self._batch = Scheduler(), DecodingBatch(self.model.context)
                for job in list(self._unanswered):
                    job.fail(error)
                return 0

    def _step(self) -> int:
        batch = self._batch
        batch.end_cancelled()
        if new := self._scheduler.admit(batch.live):
            batch.enter(self._runner.read(new))
            if self._scheduler.reads_on(batch.live):
                return 0
        batch.shrink()
        if batch.rows:
            self._runner.decode(batch)
        batch.settle()
        if not batch.live:
            return 0
        drawn = self._runner.draw(batch)
        for row, token, logprob, top in drawn:
            self._take(row, token, logprob)
            row.top += [top] if row.job.request.top else []
            if (hear := row.job.request.on_token) is not None:
                hear(row.number, token, logprob, top)
        for job in dict.fromkeys(row.job for row, *_ in drawn if row.done):
            job.answer()
        return len(drawn)

    def _take(self, row: DecodingRow, token: int, logprob: float) -> None:
        params = row.job.request.params
        row.tokens.append(token)
        row.logprobs.append(logprob)
        row.stopped = token in params.stop_tokens
        if params.stop_strings and not row.stopped and self.decode_text is not None:
            text = self.decode_text(row.tokens)
            row.stopped = any(stop in text for stop in params.stop_strings)
        row.done = row.stopped or len(row.tokens) == len(row.u)


class _Driven(Future[SampleReply]):
    """A reply that whoever waits for it computes: no thread runs next to theirs."""

    def __init__(self, loop: DecodingLoop) -> None:
        super().__init__()
        self._loop = loop

    def result(self, timeout: float | None = None) -> SampleReply:
        self._drive(timeout)
        return super().result(None if timeout is None else 0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self._drive(timeout)
        return super().exception(None if timeout is None else 0)

    def _drive(self, timeout: float | None) -> None:
        until = None if timeout is None else time.monotonic() + timeout
        while not self.done() and (until is None or time.monotonic() < until):
            self._loop.step()


@dataclass(eq=False)
class NativeSampler(Sampler):
    """The weights of a loop's model, with an adapter or without. client: whose turn it is in the loop to begin rows."""

    loop: DecodingLoop
    policy_version: int
    adapter: FrozenAdapter | None = None
    client: Hashable = None

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        """To wait for a reply's result or exception is to compute it, and what else the loop has to do."""
        check_requests(requests, self.loop.model.context, decodes=self.loop.decode_text is not None)
        jobs = [
            SampleJob(request, self.client, self.adapter, self.policy_version, _Driven(self.loop))
            for request in requests
        ]
        self.loop.add(jobs)
        return [job.future for job in jobs]


def native_samplers(config: RolloutConfig, crew: Crew | None = None) -> OpenSampler:
    """Samplers in this process, each with a frozen copy of its model to itself, or in as many workers as asked for."""
    if config.workers:
        return RemoteSamplers(worker_specs(config, "thumbs.rollout.native_worker:NativeWorker"), crew)

    def opened(published: Published) -> NativeSampler:
        return NativeSampler(DecodingLoop(published.trunk(), published.decode_text), published.version)

    return opened
