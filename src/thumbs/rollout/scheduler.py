"""Who is sampled for next: requests wait in a queue per client, and clients take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np

from thumbs.models.base import FrozenAdapter
from thumbs.records import Sample
from thumbs.rollout.draw import uniforms
from thumbs.rollout.sampler import PromptAnswer, SampleReply, SampleRequest, Top

MAX_ROWS = 128
"""Sequences decoded together; on two cores 128 gave 1.1 to 1.4 times the tokens/s of 64 (docs/log.md)."""

CACHE_TOKENS = 65_536
"""Tokens of room in a cache, 46 kB each in a 135M model in float32; long sequences decode in fewer rows."""

PREFILL_TOKENS = 2048
"""Prompt tokens that are read between two steps of the rows that decode already (one prompt at least)."""


@dataclass(eq=False)
class SampleJob:
    """A request on its way: whose it is, the weights it is drawn from, and the rows that have begun."""

    request: SampleRequest
    client: Hashable
    adapter: FrozenAdapter | None
    policy_version: int
    future: Future[SampleReply]
    rows: list[DecodingRow] = field(default_factory=list)
    about_prompt: PromptAnswer | None = None

    def __post_init__(self) -> None:
        self.prompt = tuple(self.request.prompt)
        self.reach = len(self.prompt) + self.request.params.max_new_tokens
        self.waiting = len(self.request.seeds)  # samples that have not begun

    def begin(self, count: int) -> list[DecodingRow]:
        """The next rows."""
        seeds = self.request.seeds[len(self.rows) :][:count]
        # Uniforms are drawn now and not on arrival: what waits should cost no more than its prompt.
        new = [
            DecodingRow(self, number, uniforms(seed, self.request.params.max_new_tokens))
            for number, seed in enumerate(seeds, len(self.rows))
        ]
        self.rows, self.waiting = [*self.rows, *new], self.waiting - count
        return new

    def answer(self) -> None:
        """Sets the future if every sample is complete."""
        if self.waiting or not all(row.done for row in self.rows) or not self.future.set_running_or_notify_cancel():
            return
        samples = [row.sample() for row in self.rows]
        self.future.set_result(SampleReply(samples, [row.top for row in self.rows], self.about_prompt))

    def fail(self, error: Exception) -> None:
        """Hands an error to whoever waits."""
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


@dataclass(eq=False)
class DecodingRow:
    """One sample in progress. u: the numbers that it is drawn with; top: the likeliest tokens at each place.

    stopped: its last token ended it; done: no token will follow.
    """

    job: SampleJob
    number: int
    u: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)
    stopped: bool = False
    done: bool = False

    def sample(self) -> Sample:
        """As it stands."""
        return Sample(
            tokens=np.array(self.tokens, dtype=np.int64),
            logprobs=np.array(self.logprobs, dtype=np.float32),
            stop_reason="stop" if self.stopped else "length",
            policy_version=self.job.policy_version,
        )


class Scheduler:
    """See the module."""

    def __init__(self) -> None:
        self._queues: dict[Hashable, deque[SampleJob]] = {}

    def add(self, job: SampleJob) -> None:
        """Queues a job behind the others of its client."""
        self._queues.setdefault(job.client, deque()).append(job)

    @property
    def jobs(self) -> Iterator[SampleJob]:
        """The jobs that still have rows to begin."""
        return chain.from_iterable(self._queues.values())

    def admit(self, live: Sequence[DecodingRow]) -> list[DecodingRow]:
        """Rows that begin now, next to the live ones: what there is room for, PREFILL_TOKENS at a time."""
        new: list[DecodingRow] = []
        read = 0
        while read < PREFILL_TOKENS and (job := self._next()) is not None:
            rows = [*live, *new]
            free = self._free(rows, job)
            # Nobody overtakes the job whose turn it is: a long one would wait for ever behind short ones.
            if free <= 0 or (not new and self._gathers(rows, free)):
                break
            new += job.begin(min(free, job.waiting))
            read += len(job.prompt)
            # The client goes to the end of the line although it may want more rows: they are shared by turns.
            self._queues[job.client] = self._queues.pop(job.client)
        return new

    def reads_on(self, rows: Sequence[DecodingRow]) -> bool:
        """Whether more prompts should be read before a token is drawn: for a client alone, who waits for nobody else.

        Otherwise its first rows would decode in ever new batches, and each time the cache would be copied.
        """
        job = self._next()
        return job is not None and self._alone(rows) and self._free(rows, job) > 0

    def _next(self) -> SampleJob | None:
        """The job whose turn it is; lets go of those that have begun or were cancelled."""
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            while queue and (not queue[0].waiting or queue[0].future.cancelled()):
                queue.popleft()
            if queue:
                return queue[0]
            del self._queues[client]
        return None

    def _free(self, rows: Sequence[DecodingRow], job: SampleJob) -> int:
        """Rows of the job that fit next to others: the cache is a rectangle, as long as the longest row may become."""
        reach = max([job.reach, *(row.job.reach for row in rows)])
        return max(min(MAX_ROWS, CACHE_TOKENS // reach), 1) - len(rows)

    def _alone(self, rows: Sequence[DecodingRow]) -> bool:
        """Whether everything that waits or decodes is of one client."""
        return len({row.job.client for row in rows} | self._queues.keys()) == 1

    def _gathers(self, rows: Sequence[DecodingRow], free: int) -> bool:
        """Whether a client alone, of whom more waits than fits, waits until more rows are free.

        Several prompts are then read together: one at a time costs a tenth of the tokens/s.
        """
        wants_more = sum(job.waiting for job in islice(self.jobs, free + 1)) > free
        return free < len(rows) / 4 and wants_more and self._alone(rows)
