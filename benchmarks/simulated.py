"""A cluster with recorded times in place of computing: the run's own queue of rollouts and dealing of micro-batches,
driven in virtual time.

What is real: `RolloutQueue` and `PendingRollouts` (who is asked for what, when, staleness, stragglers, checkpoints) and
`deal` (which rank computes which micro-batch). What is simulated: how long a reply, a micro-batch and a restart take,
and samplers that answer several requests at a time, die, and come back.

python benchmarks/simulated.py     writes docs/images/utilisation.svg and prints a table
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from thumbs.config.engine import RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.base import Handle
from thumbs.engine.plan import deal
from thumbs.records import Message, Prompt, Rollout, Sample, Score
from thumbs.rollout import pending
from thumbs.rollout.sampler import Sampler, SampleReply, SampleRequest
from thumbs.stages.context import Context
from thumbs.stages.rollout_queue import BatchSpec, RolloutQueue, ScoredBatch
from thumbs.tracking.run_folder import StageFolder

TOKEN_S, TRAIN_TOKEN_S, RESTART_S = 0.04, 0.025, 120.0
"""Seconds of a sampled token, of a trained token on a rank, and until something that died is back."""
MEAN_TOKENS, EACH, PROMPTS, ROWS = 200, 8, 256, 1
"""Tokens of a reply on average, replies to a prompt, prompts of a step, prompts that a sampler answers at a time."""


class Clock:
    """Virtual seconds, and what happens at them."""

    def __init__(self) -> None:
        self.now, self._events, self._order = 0.0, list[tuple[float, int, Callable[[], None]]](), itertools.count()

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Plans an action."""
        heapq.heappush(self._events, (time, next(self._order), action))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Goes on to that time, or until something is done."""
        while not done() and self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        if not done():
            self.now = max(self.now, until)


class VirtualReply(Future[SampleReply]):
    """To wait for it is to let virtual time pass."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def exception(self, timeout: float | None = None) -> BaseException | None:
        self.clock.run(self.clock.now + (timeout or 0.0), self.done)
        return super().exception(0)


@dataclass(eq=False)
class _Worker:
    held: dict[Any, float] = field(default_factory=dict)
    alive: bool = True


class Farm:
    """Samplers that answer ROWS requests at a time each; what one had when it died goes to the others."""

    def __init__(self, clock: Clock, samplers: int, spread: float) -> None:
        self.clock, self.spread, self.busy_s, self.resent = clock, spread, 0.0, 0
        self.workers = [_Worker() for _ in range(samplers)]
        self.waiting: deque[tuple[SampleRequest, int, VirtualReply]] = deque()

    def length(self, seed: int) -> int:
        """Tokens of the reply with that seed: log-normal about the mean."""
        z = np.random.default_rng(seed).normal()
        return max(1, min(round(MEAN_TOKENS * np.exp(self.spread * z - self.spread**2 / 2)), 20 * MEAN_TOKENS))

    def fail(self, number: int) -> None:
        """A sampler dies, and is back after RESTART_S."""
        worker = self.workers[number]
        worker.alive, lost = False, list(worker.held)
        worker.held.clear()
        self.resent += len(lost)
        self.waiting.extendleft(lost)
        self.clock.at(self.clock.now + RESTART_S, lambda: self._back(worker))
        self.give()

    def _back(self, worker: _Worker) -> None:
        worker.alive = True
        self.give()

    def give(self) -> None:
        """Deals what waits to the samplers with the fewest requests."""
        free = [(len(w.held), i) for i, w in enumerate(self.workers) if w.alive and len(w.held) < ROWS]
        heapq.heapify(free)
        while free and self.waiting:
            held, number = heapq.heappop(free)
            job = self.waiting.popleft()
            if job[2].cancelled():
                heapq.heappush(free, (held, number))
                continue
            self._begin(self.workers[number], job)
            if held + 1 < ROWS:
                heapq.heappush(free, (held + 1, number))

    def _begin(self, worker: _Worker, job: tuple[SampleRequest, int, VirtualReply]) -> None:
        began = worker.held[job] = self.clock.now
        seconds = TOKEN_S * max(map(self.length, job[0].seeds))

        def end() -> None:
            if worker.held.get(job) != began:
                return  # it died over it
            del worker.held[job]
            self.busy_s += seconds
            if job[2].set_running_or_notify_cancel():
                job[2].set_result(self._reply(*job[:2]))
            self.give()

        self.clock.at(began + seconds, end)

    def _reply(self, request: SampleRequest, version: int) -> SampleReply:
        lengths = [self.length(seed) for seed in request.seeds]
        samples = [Sample(np.full(n, 97), np.zeros(n, np.float32), "stop", version) for n in lengths]
        return SampleReply(samples, [[] for _ in samples])


class _Sampler(Sampler):
    def __init__(self, farm: Farm, policy_version: int) -> None:
        self.farm, self.policy_version = farm, policy_version

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        replies = [VirtualReply(self.farm.clock) for _ in requests]
        self.farm.waiting.extend((r, self.policy_version, f) for r, f in zip(requests, replies, strict=True))
        self.farm.give()
        return list(replies)


class _Length:
    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        return [Score(float(rollout.reply_length % 5)) for rollout in rollouts]


@dataclass(frozen=True)
class Outcome:
    """seconds: virtual, of the whole; training, sampling: which part of that time ranks and samplers computed; batches:
    a digest of what each step trained on, and the age of its rollouts; cut: prompts left out; resent: requests whose
    sampler died; repeated: steps that a lost rank made necessary again.
    """

    seconds: float
    training: float
    sampling: float
    batches: dict[int, tuple[str, int]]
    cut: int
    resent: int
    repeated: int


def simulate(
    folder: Path,
    *,
    staleness: int,
    spread: float,
    ranks: int = 512,
    samplers: int = 256,
    steps: int = 12,
    save_every: int = 5,
    cut_after_s: float | None = None,
    lost_samplers: Sequence[tuple[float, int]] = (),
    lost_ranks: Sequence[int] = (),
) -> Outcome:
    """A run in virtual time. spread: of the logarithm of the replies' lengths. lost_samplers: (second, number) of those
    that die; lost_ranks: steps in which a rank dies, after which the run goes on from its last checkpoint.
    """
    clock = Clock()
    farm = Farm(clock, samplers, spread)
    version = SimpleNamespace(steps=0)
    engine: Any = SimpleNamespace(snapshot=lambda handle: _Sampler(farm, version.steps))
    config = RolloutConfig(staleness=staleness, cut_after_s=cut_after_s)
    context = Context(engine, ByteTokenizer(), StageFolder(folder), ModelConfig(name="byte-tiny"), 0, (), config)
    prompts = [Prompt(str(i), (Message("user", str(i)),)) for i in range(PROMPTS * 4)]
    spec = BatchSpec(prompts, PROMPTS, EACH, SamplingConfig(max_new_tokens=20 * MEAN_TOKENS), "group")
    for second, number in lost_samplers:
        clock.at(second, lambda number=number: farm.fail(number))
    trained_s, repeated, lost, batches, cut = 0.0, 0, list(lost_ranks), dict[int, tuple[str, int]](), 0
    saved: tuple[int, dict[str, Any]] = (0, {})
    with patch.object(pending, "time", SimpleNamespace(monotonic=lambda: clock.now)):
        while saved[0] < steps:
            queue = RolloutQueue(context, Handle(1, "policy"), _Length(), spec)
            state, number = dict(saved[1]), saved[0]
            queue.restore(state)
            with queue.open():
                while number < steps:
                    version.steps = number
                    batch = queue.take(number)
                    if number in lost:
                        lost.remove(number)
                        repeated += number - saved[0]
                        clock.run(clock.now + RESTART_S)
                        break
                    seconds = train_seconds(batch, ranks)
                    clock.run(clock.now + seconds)
                    trained_s += busy_seconds(batch, ranks)
                    batches[number], number, cut = (digest(batch), number - batch.step), number + 1, cut + batch.cut
                    if number % save_every == 0 or number == steps:
                        queue.save(state := {})
                        saved = (number, state)
    return Outcome(
        clock.now,
        trained_s / clock.now,
        farm.busy_s / (clock.now * samplers * ROWS),
        batches,
        cut,
        farm.resent,
        repeated,
    )


def train_seconds(batch: ScoredBatch, ranks: int) -> float:
    """Of the slowest rank, to which whole sequences are dealt as the engine deals micro-batches."""
    tokens = [len(rollout.tokens) for rollout in batch.rollouts]
    return TRAIN_TOKEN_S * max(sum(tokens[i] for i in share) for share in deal(tokens, ranks))


def busy_seconds(batch: ScoredBatch, ranks: int) -> float:
    """Of the ranks on average."""
    return TRAIN_TOKEN_S * sum(len(rollout.tokens) for rollout in batch.rollouts) / ranks


def digest(batch: ScoredBatch) -> str:
    """What a batch is made of: prompts, lengths and scores, in order."""
    rows = [(r.prompt_id, len(r.tokens), s.value) for r, s in zip(batch.rollouts, batch.scores, strict=True)]
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


STALENESS, SPREADS = (0, 1, 2, 3, 4), (0.2, 0.6, 1.0)


def main() -> None:
    from matplotlib.figure import Figure
    from page import IMAGES, save

    figure = Figure(figsize=(8, 3), layout="constrained")
    panels: Sequence[Any] = figure.subplots(1, 2)
    print("| spread of lengths | staleness | ranks compute | samplers compute | seconds per step |")
    print("|---|---|---|---|---|")
    for spread, colour in zip(SPREADS, ("#4477aa", "#ee6677", "#228833"), strict=True):
        found = []
        for staleness in STALENESS:
            with tempfile.TemporaryDirectory() as folder:
                found.append(simulate(Path(folder), staleness=staleness, spread=spread))
            one = found[-1]
            print(
                f"| {spread} | {staleness} | {one.training:.0%} | {one.sampling:.0%} | "
                f"{one.seconds / len(one.batches):.1f} |"
            )
        panels[0].plot(STALENESS, [one.training for one in found], "o-", color=colour, label=f"spread {spread}")
        panels[1].plot(STALENESS, [one.sampling for one in found], "o-", color=colour, label=f"spread {spread}")
    for panel, title in zip(panels, ("512 ranks", "256 samplers"), strict=True):
        panel.set(xlabel="staleness, steps", ylabel=f"share of time: {title}", ylim=(0, 1), xticks=STALENESS)
    panels[0].legend(frameon=False)
    save(figure, IMAGES / "utilisation.svg")


if __name__ == "__main__":
    main()
