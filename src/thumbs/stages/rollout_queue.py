"""Rollouts are drawn ahead of training: while step k trains, those of step k + K are on their way (K: staleness).

The schedule is fixed. Step k trains on batch k, drawn with the weights of step k - K; the first step draws its own
batch and the K after it. Prompts and seeds depend on the batch alone, so it changes no number when a reply arrives: a
run whose samplers work elsewhere has the metrics of one whose sampler computes when somebody waits, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeAlias

import numpy as np

from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import Handle
from thumbs.records import Message, Prompt, Rollout, Score
from thumbs.rewards.base import RewardSource
from thumbs.rewards.mix import start_scoring
from thumbs.rollout.episodes import Episodes, converse
from thumbs.rollout.pending import PendingRollouts
from thumbs.rollout.rounds import reply, sampling_params, seed_of
from thumbs.rollout.sampler import Sampler
from thumbs.stages.context import Context, batch_at
from thumbs.stages.filtering import filtered
from thumbs.tracking.files import plain

SAVED = "rollouts"
"""Where the batches that wait are in the state of a stage."""


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """Rollouts with their scores, those to one prompt side by side; step: the one whose weights sampled them.

    cut: prompts that are missing because their replies were late. redraws, dropped: batches drawn in place of groups
    without signal, and groups of them that were not needed. filtered: rows of the replies that filters took out.
    """

    step: int
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    cut: int = 0
    redraws: int = 0
    dropped: int = 0
    filtered: tuple[dict[str, str], ...] = ()


Redraw: TypeAlias = Callable[[int], ScoredBatch]
"""The n-th batch of other prompts, drawn at once with the weights of the batch that it replaces a part of."""


@dataclass(frozen=True)
class BatchSpec:
    """What a batch of a stage is: `size` prompts of `prompts`, `each` replies to a prompt.

    stage: names the draws, which have seeds of their own. refine: makes another batch of one, for dynamic sampling.
    """

    prompts: Sequence[Prompt]
    size: int
    each: int
    sampling: SamplingConfig
    stage: str
    episodes: Episodes | None = None
    refine: Callable[[ScoredBatch, Redraw], ScoredBatch] | None = None


@dataclass(eq=False)
class _Pending:
    """A batch on its way: the step whose weights draw it, and what is needed to end it."""

    step: int
    sampler: Sampler
    rollouts: PendingRollouts
    cut: int


@dataclass(eq=False)
class RolloutQueue:
    """The batches of one policy, by their number."""

    context: Context
    policy: Handle
    reward: RewardSource
    spec: BatchSpec
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _ready: dict[int, ScoredBatch] = field(default_factory=dict)

    @property
    def staleness(self) -> int:
        """How many steps batches are drawn ahead."""
        return self.context.rollout.staleness

    def take(self, number: int) -> ScoredBatch:
        """The batch of step `number`, after the one that is `staleness` steps ahead has been asked for."""
        ahead = range(number, number + self.staleness + 1)
        if new := [batch for batch in ahead if batch not in self._pending and batch not in self._ready]:
            sampler = self.context.engine.snapshot(self.policy)
            for batch in new:
                self._pending[batch] = self._begin(batch, number, sampler)
        self._end(number)
        taken = self._ready.pop(number)
        for row in taken.filtered:
            self.context.folder.filtered.append(number + 1, row)
        return taken

    def save(self, state: dict[str, Any]) -> None:
        """Waits for all batches that were asked for, and puts them into the state of the stage."""
        for batch in list(self._pending):
            self._end(batch)
        state[SAVED] = {str(batch): batch_as_json(scored) for batch, scored in sorted(self._ready.items())}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `save` put into the state out of it."""
        for batch, raw in state.pop(SAVED, {}).items():
            self._ready.setdefault(int(batch), batch_from_json(raw))

    def metrics(self, number: int, batch: ScoredBatch) -> dict[str, float]:
        """What is to be known of a batch that may be old or cut, without the name of the section; else nothing."""
        late = {"cut": float(batch.cut)} if self.context.rollout.cut_after_s is not None else {}
        late |= {"filtered": float(len(batch.filtered))} if self.context.filters is not None else {}
        return late | ({"staleness": float(number - batch.step)} if self.staleness else {})

    @contextmanager
    def open(self) -> Iterator[RolloutQueue]:
        """Forgets at the end what nobody takes any more, and ends the threads."""
        try:
            yield self
        finally:
            for pending in self._pending.values():
                pending.rollouts.cancel()
            for threads in (self._turns, self._scoring):
                if threads is not None:
                    threads.shutdown(wait=False, cancel_futures=True)

    @cached_property
    def _turns(self) -> ThreadPoolExecutor | None:
        """Threads for environments; None where the thread that waits asks them one after the other."""
        concurrency = 1 if self.spec.episodes is None else self.spec.episodes.concurrency
        return ThreadPoolExecutor(concurrency, "turns") if self.staleness or concurrency > 1 else None

    @cached_property
    def _scoring(self) -> ThreadPoolExecutor | None:
        """Threads for reward functions, which score each batch in a thread of its own while others are trained on."""
        return ThreadPoolExecutor(self.staleness, "rewards") if self.staleness else None

    def _begin(self, batch: int, step: int, sampler: Sampler) -> _Pending:
        cuts = [record["rows"] for record in self.context.folder.stragglers.read() if record["step"] == batch]
        pending = self._ask(sampler, self._prompts(batch), cuts[0] if cuts else (), batch)
        return _Pending(step, sampler, pending, len(cuts[0]) if cuts else 0)

    def _prompts(self, batch: int, *stream: int | str) -> list[Prompt]:
        a = self.spec
        return batch_at(a.prompts, batch, a.size, self.context.seed, f"{a.stage}-prompts", *stream)

    def _ask(
        self, sampler: Sampler, prompts: Sequence[Prompt], left_out: Sequence[int], *key: int | str
    ) -> PendingRollouts:
        """Asks for `each` rollouts of every prompt but those in rows that are left out."""
        a, tokenizer = self.spec, self.context.tokenizer
        rows = [
            (prompt, seed_of(self.context.seed, a.stage, *key, row * a.each + i))
            for row, prompt in enumerate(prompts)
            if row not in left_out
            for i in range(a.each)
        ]
        conversations = [
            reply(prompt, tokenizer, a.sampling, seed)
            if a.episodes is None
            else converse(prompt, tokenizer, a.sampling, seed, a.episodes)
            for prompt, seed in rows
        ]
        return PendingRollouts(
            sampler,
            conversations,
            sampling_params(a.sampling, tokenizer),
            partial(start_scoring, self.reward),
            turns=self._turns,
            scoring=self._scoring,
        )

    def _end(self, batch: int) -> None:
        """Waits for a batch and scores it."""
        pending = self._pending.pop(batch, None)
        if pending is None:
            return
        each, limit_s = self.spec.each, self.context.rollout.cut_after_s
        late = pending.rollouts.wait(each, limit_s)
        if late:
            record = {"rows": late, "waited_s": limit_s, "policy_of_step": pending.step}
            self.context.folder.stragglers.append(batch, record)
        scored = self._scored(pending, pending.cut + len(late))
        if self.spec.refine is not None:
            rows = list(scored.filtered)
            scored = self.spec.refine(scored, lambda n: self._redraw(pending, batch, n, rows))
            scored = replace(scored, filtered=tuple(rows))
        self._ready[batch] = scored

    def _redraw(self, pending: _Pending, batch: int, number: int, filtered: list[dict[str, str]]) -> ScoredBatch:
        prompts = self._prompts(batch, "redraw", number)
        rollouts = self._ask(pending.sampler, prompts, (), batch, "redraw", number)
        rollouts.wait(self.spec.each, None)
        drawn = self._scored(_Pending(pending.step, pending.sampler, rollouts, 0), 0)
        filtered += drawn.filtered
        return drawn

    def _scored(self, pending: _Pending, cut: int) -> ScoredBatch:
        rollouts, scores = pending.rollouts.scored()
        kept, rows = filtered(self.context.filters, rollouts, self.spec.each)
        stay, of_them = (rollouts[i] for i in kept), (scores[i] for i in kept)
        return ScoredBatch(pending.step, tuple(stay), tuple(of_them), cut, filtered=tuple(rows))


def batch_as_json(batch: ScoredBatch) -> dict[str, Any]:
    """Plain data, from which `batch_from_json` makes the same again: float32 → text → float32 loses nothing."""
    return plain(asdict(batch))


def batch_from_json(raw: Mapping[str, Any]) -> ScoredBatch:
    """What `batch_as_json` wrote."""
    scores = (Score(**{**each, "tokens": each["tokens"] and tuple(each["tokens"])}) for each in raw["scores"])
    raw = {**raw, "filtered": tuple(raw.get("filtered", ()))}  # which states of older versions lack
    return ScoredBatch(**{**raw, "rollouts": tuple(map(_rollout, raw["rollouts"])), "scores": tuple(scores)})


def _rollout(raw: Mapping[str, Any]) -> Rollout:
    arrays = {
        name: np.array(raw[name], np.float32) for name in ("mask", "logprobs", "rewards") if raw[name] is not None
    }
    messages = tuple(Message(**message) for message in raw["messages"])
    return Rollout(**{**raw, **arrays, "tokens": np.array(raw["tokens"], np.int64), "messages": messages})
