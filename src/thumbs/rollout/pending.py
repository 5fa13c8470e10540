"""Rollouts that are on their way: conversations whose replies somebody else samples, as they come, in any order."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress

from thumbs.records import Rollout, Score
from thumbs.rollout.rounds import Ask, Conversation
from thumbs.rollout.sampler import DecodingParams, Sampler, SampleReply, SampleRequest, equal_prompts

_LOOK_S = 0.05
"""How long whoever waits looks at one reply before it looks at what else has come."""


class PendingRollouts:
    """One rollout of each conversation.

    A conversation goes on as soon as its reply is there: in `turns`, threads of its owner, or without them in the
    thread that waits. When all are over, `score` is called in `scoring`, or by whoever asks for the scores; what it
    returns is called by that thread. Samplers that compute when somebody waits compute in `wait`.
    """

    def __init__(
        self,
        sampler: Sampler,
        conversations: Sequence[Conversation],
        params: DecodingParams,
        score: Callable[[list[Rollout]], Callable[[], list[Score]]],
        *,
        turns: Executor | None = None,
        scoring: Executor | None = None,
    ) -> None:
        self._sampler, self._conversations, self._params = sampler, conversations, params
        self._turns, self._scoring, self._score = turns, scoring, score
        self._rollouts: dict[int, Rollout] = {}
        self._waiting: dict[Future[SampleReply], list[int]] = {}
        self._arrived: deque[Future[SampleReply]] = deque()
        self._error: Exception | None = None
        self._started: Future[Callable[[], list[Score]]] | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._submit({place: next(conversation) for place, conversation in enumerate(conversations)})

    def wait(self, each: int, limit_s: float | None) -> list[int]:
        """Waits until all conversations are over; raises what went wrong in one.

        After `limit_s` seconds (None: never) it is enough if half of the prompts are complete, each with its `each`
        conversations side by side; the others are cut. Returns the numbers of the prompts that were cut.
        """
        until = math.inf if limit_s is None else time.monotonic() + limit_s
        while not self._over():
            if time.monotonic() >= until and (late := self._cut(each)):
                return late
            if self._turns is None and self._arrived:
                self._go_on()
            else:
                self._await_reply()
        return []

    def scored(self) -> tuple[list[Rollout], list[Score]]:
        """The rollouts in order, and their scores; after `wait`."""
        rollouts = self._in_order()
        finish = self._score(rollouts) if self._started is None else self._started.result()
        return rollouts, finish()

    def cancel(self) -> None:
        """Lets go of what is still sampled."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()

    def _in_order(self) -> list[Rollout]:
        return [self._rollouts[place] for place in sorted(self._rollouts)]

    def _over(self) -> bool:
        with self._changed:
            if self._error is not None:
                raise self._error
            return len(self._rollouts) == len(self._conversations)

    def _cut(self, each: int) -> list[int]:
        """Leaves out the prompts that have not all their rollouts, if they are at most half; returns their numbers."""
        with self._changed:
            places = range(len(self._conversations))
            late = sorted({place // each for place in places if place not in self._rollouts})
            if not late or 2 * len(late) * each > len(places):
                return []
            self._closed = True
            self._rollouts = {place: r for place, r in self._rollouts.items() if place // each not in late}
        self.cancel()
        return late

    def _await_reply(self) -> None:
        """Waits a little for the reply that was asked for first; without one, for what the threads do."""
        with self._changed:
            future = next((future for future in self._waiting if not future.done()), None)
            if future is None and (self._turns is not None or not self._arrived):
                self._changed.wait(_LOOK_S)
        if future is not None:
            with suppress(TimeoutError, CancelledError):
                future.exception(_LOOK_S)  # which is to compute it, for a sampler that works when somebody waits

    def _submit(self, asks: Mapping[int, Ask]) -> None:
        places = list(asks)
        own = [[places[i] for i in at] for at in equal_prompts([asks[place][0] for place in places])]
        requests = [SampleRequest(asks[at[0]][0], self._params, [asks[place][1] for place in at]) for at in own]
        futures = self._sampler.submit(requests)
        with self._changed:
            self._waiting |= zip(futures, own, strict=True)
        for future in futures:
            future.add_done_callback(self._arrive)

    def _arrive(self, future: Future[SampleReply]) -> None:
        """Is called by whoever has sampled a reply, and does next to nothing there."""
        with self._changed:
            self._arrived.append(future)
            self._changed.notify_all()
        if self._turns is not None:
            with suppress(RuntimeError):  # its owner has ended them
                self._turns.submit(self._go_on)

    def _go_on(self) -> None:
        """Takes a reply into its conversations; an error is kept for whoever waits."""
        over: dict[int, Rollout] = {}
        with self._changed:
            future = self._arrived.popleft()
            places = self._waiting[future]
        try:
            if not self._closed:
                over = self._speak(places, future.result())
        except Exception as error:
            self._error = self._error or error
        with self._changed:
            del self._waiting[future]
            if not self._closed:
                self._rollouts |= over
                if self._scoring is not None and over and len(self._rollouts) == len(self._conversations):
                    self._started = self._scoring.submit(self._score, self._in_order())
            self._changed.notify_all()

    def _speak(self, places: Sequence[int], reply: SampleReply) -> dict[int, Rollout]:
        """Gives its sample to each conversation and asks for the next; returns the rollouts of those that are over."""
        asks, over = dict[int, Ask](), dict[int, Rollout]()
        for place, sample in zip(places, reply.samples, strict=True):
            try:
                asks[place] = self._conversations[place].send(sample)
            except StopIteration as end:
                over[place] = end.value
        if asks:
            self._submit(asks)
        return over
