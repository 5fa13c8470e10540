"""Where a backend's samples are drawn: in this process, whose one thread trains as well, or in others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from thumbs.clients.futures import Unanswered, after
from thumbs.clients.served_weights import ServedAdapter, ServedWeights
from thumbs.clients.worker import ClosedError, Worker
from thumbs.engine.base import AdapterSource
from thumbs.rollout.native import DecodingLoop, NativeSampler
from thumbs.rollout.publish import OpenSampler
from thumbs.rollout.sampler import PromptAnswer, Sampler, SampleReply, SampleRequest

S = TypeVar("S", bound=Sampler)
Answer = Callable[[SampleReply], Any]
Score = Callable[[ServedWeights, SampleRequest], Future[PromptAnswer]]


class Drawing(Protocol[S]):
    """What makes samplers, and asks them."""

    def open(self, weights: ServedAdapter) -> S:
        """A sampler of the weights; `sample` calls it, by way of `find`."""
        ...

    def sample(
        self, weights: ServedWeights, find: Callable[[], S], request: SampleRequest, answer: Answer
    ) -> Future[Any]:
        """What `answer` makes of the reply of the sampler that `find` gives; cancelling the future ends the request."""
        ...

    @property
    def sampled_tokens(self) -> int:
        """So far."""
        ...

    @property
    def waiting(self) -> int:
        """Requests that have not been answered."""
        ...

    def end(self) -> None:
        """What waits fails."""
        ...


class DrawingHere:
    """All adapters of a base decode in one loop, on the thread of the worker."""

    def __init__(self, worker: Worker, adapters: AdapterSource) -> None:
        self._worker, self._adapters = worker, adapters
        self._loops: dict[int, DecodingLoop] = {}

    def open(self, weights: ServedAdapter) -> NativeSampler:
        adapter = None if weights.folder is None else self._adapters.read_adapter(weights.folder)
        base = self._adapters.frozen_base(weights.base.config)
        if id(base) not in self._loops:  # one for all names of a base
            self._loops[id(base)] = DecodingLoop(base, weights.decode_text)
        return NativeSampler(self._loops[id(base)], weights.version, adapter, weights.client)

    def sample(
        self, weights: ServedWeights, find: Callable[[], NativeSampler], request: SampleRequest, answer: Answer
    ) -> Future[Any]:
        return self._worker.sample(find, request, answer)

    @property
    def sampled_tokens(self) -> int:
        return self._worker.sampled_tokens

    @property
    def waiting(self) -> int:
        return self._worker.samples

    def end(self) -> None:
        """The worker's own end is that of its samples."""


class DrawingElsewhere:
    """Other processes draw, however long this one takes for a step.

    A thread hands requests on in the order in which they came, since to publish weights and to start workers takes a
    while.
    """

    def __init__(self, open_sampler: OpenSampler, score: Score) -> None:
        """score: answers what is asked about a prompt, for samplers that do not read any."""
        self._open, self._score, self._tokens = open_sampler, score, 0
        self._unanswered = Unanswered()
        self._thread = ThreadPoolExecutor(1, "thumbs-samples")

    def open(self, weights: ServedAdapter) -> Sampler:
        return self._open(weights)

    def sample(
        self, weights: ServedWeights, find: Callable[[], Sampler], request: SampleRequest, answer: Answer
    ) -> Future[Any]:
        scored: list[Future[PromptAnswer]] = []

        def begin() -> Future[SampleReply]:
            sampler, about = find(), request.about_prompt
            if about is None or not about.asks or sampler.reads_prompts:
                (reply,) = sampler.submit([request])
                if isinstance(sampler, NativeSampler):
                    self._thread.submit(reply.exception)  # to wait for it is to compute it
                return reply
            scored.append(self._score(weights, request))
            return after(scored[0], lambda: sampler.submit([replace(request, about_prompt=None)])[0])

        def told(reply: SampleReply) -> Any:
            self._tokens += sum(len(sample.tokens) for sample in reply.samples)
            return answer(replace(reply, prompt=scored[0].result()) if scored else reply)

        future = self._unanswered.new()
        try:
            self._thread.submit(self._unanswered.ask, future, begin, told)
        except RuntimeError:
            raise ClosedError("the service is closed") from None
        return future

    @property
    def sampled_tokens(self) -> int:
        return self._tokens

    @property
    def waiting(self) -> int:
        return len(self._unanswered)

    def end(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._unanswered.fail(ClosedError("the service was closed before this was done"))
