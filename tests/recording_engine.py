"""An engine behind a wire: all that goes to another engine, and comes from it, goes through bytes and is kept."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSize, ModelSpec, OpenEngine, OptimReport
from thumbs.engine.local import LocalEngine
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.records import Example, ForwardOutput, TrainOutput
from thumbs.rollout.sampler import Sampler, SampleReply, SampleRequest

T = TypeVar("T")


def sent(value: T) -> T:
    """What another process would get."""
    return pickle.loads(pickle.dumps(value))  # noqa: S301 (our own bytes)


class RecordingEngine:
    """What is asked of it, in `calls`, is asked of a local engine. Samplers and frozen weights stay where they are."""

    def __init__(self, inner: OpenEngine | None = None) -> None:
        self.inner = inner or LocalEngine()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def create(self, spec: ModelSpec) -> Handle:
        return self._ask("create", spec)

    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        return self._ask("forward", handle, data, temperature=temperature)

    def forward_backward(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        return self._ask("forward_backward", handle, data, losses, logprobs_everywhere=logprobs_everywhere)

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        return self._ask("optim_step", handle, adam)

    def snapshot(self, handle: Handle) -> Sampler:
        self.calls.append(("snapshot", (handle,)))
        return _FarSampler(self.inner.snapshot(sent(handle)))

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        self._ask("save", handle, path, optimizer=optimizer)

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        self._ask("load", handle, path, optimizer=optimizer)

    def close(self, handle: Handle) -> None:
        self._ask("close", handle)

    def in_parts(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        self.calls.append(("in_parts", (handle, data, losses)))
        try:
            return sent((yield from self.inner.in_parts(*sent((handle, data, losses)), backward=backward)))
        except Exception as error:
            raise sent(error) from None

    def size(self, handle: Handle) -> ModelSize:
        return self._ask("size", handle)

    def frozen_base(self, model: ModelConfig) -> Trunk:
        return self.inner.frozen_base(sent(model))

    def read_adapter(self, path: Path) -> FrozenAdapter:
        return self.inner.read_adapter(sent(path))

    def stop(self) -> None:
        self.inner.stop()

    def _ask(self, verb: str, *given: Any, **options: Any) -> Any:
        self.calls.append((verb, given))
        try:
            return sent(getattr(self.inner, verb)(*sent(given), **sent(options)))
        except Exception as error:
            raise sent(error) from None


class _FarSampler(Sampler):
    def __init__(self, inner: Sampler) -> None:
        self.inner, self.policy_version = inner, inner.policy_version

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        replies: list[Future[SampleReply]] = []
        for future in self.inner.submit(sent(requests)):
            replies.append(Future())
            replies[-1].set_result(sent(future.result()))
        return replies
