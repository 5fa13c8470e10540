"""An engine whose samplers work elsewhere: replies come from a thread, late and out of order."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from thumbs.engine.base import Handle
from thumbs.rollout.sampler import Sampler, SampleReply, SampleRequest


class LateEngine:
    """An engine that samples in a thread, one request at a time, which it picks at random from those that wait.

    stuck: whether a request is never answered. answered: the versions of the weights, in the order of the replies.
    """

    def __init__(self, engine: Any, seed: int = 0, stuck: Any = None) -> None:
        self.engine, self.stuck, self.random = engine, stuck, random.Random(seed)
        self.jobs: list[tuple[Sampler, SampleRequest, Future[SampleReply]]] = []
        self.answered: list[int] = []
        self.changed = threading.Condition()
        self.closed = False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def snapshot(self, handle: Handle) -> Sampler:
        return _Late(self, self.engine.snapshot(handle))

    def __enter__(self) -> LateEngine:
        return self

    def __exit__(self, *_: object) -> None:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        self.thread.join()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.jobs or self.closed)
                if self.closed:
                    return
                sampler, request, future = self.jobs.pop(self.random.randrange(len(self.jobs)))
            if self.stuck is not None and self.stuck(request):
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(sampler.submit([request])[0].result())
            except Exception as error:
                future.set_exception(error)
            self.answered.append(sampler.policy_version)


class _Late(Sampler):
    def __init__(self, owner: LateEngine, inner: Sampler) -> None:
        self.owner, self.inner, self.policy_version = owner, inner, inner.policy_version

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        futures: list[Future[SampleReply]] = [Future() for _ in requests]
        with self.owner.changed:
            self.owner.jobs += [(self.inner, r, f) for r, f in zip(requests, futures, strict=True)]
            self.owner.changed.notify_all()
        return futures
