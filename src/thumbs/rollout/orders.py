"""What goes to a sampler worker and comes back from it: plain data, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from thumbs.config.model import ModelConfig
from thumbs.rollout.sampler import SampleReply, SampleRequest, Top


@dataclass(frozen=True)
class PublishedWeights:
    """Published weights, of which a worker reads `folder` when it first draws from them.

    key: a number of their own. seed: of the base of a byte model. version: optimizer steps.
    module: `module:name` of the function that makes a model which a program registered under the model's name.
    shared, client: see `Published`.
    """

    key: int
    folder: Path
    model: ModelConfig
    seed: int
    version: int
    module: str | None = None
    shared: bool = False
    client: str = ""

    @property
    def whole(self) -> bool:
        """Whether they are a model of their own, and no adapter or base of adapters."""
        return self.model.lora is None and not self.shared


@dataclass(frozen=True, eq=False)
class Order:
    """A request for a worker. hears: whether the driver wants each token as it is drawn."""

    number: int
    weights: PublishedWeights
    request: SampleRequest
    hears: bool = False


@dataclass(frozen=True)
class Drawn:
    """A token of an order's sample."""

    order: int
    sample: int
    token: int
    logprob: float
    top: Top


@dataclass(eq=False)
class WorkerNews:
    """What a worker has to say, in the order in which it came to be.

    replies: of finished orders, by their numbers, or why there is none. missing: orders whose folder is not on the
    worker's machine; the driver sends the files and then the orders again.
    """

    drawn: list[Drawn] = field(default_factory=list)
    replies: dict[int, SampleReply | Exception] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)


class SamplingWorker(Protocol):
    """What a sampler worker does, whatever it draws with."""

    def exchange(self, orders: Sequence[Order], cancelled: Sequence[int]) -> WorkerNews:
        """Takes new orders, forgets cancelled ones, and computes for a moment, or not at all if nothing is to do."""
        ...

    def receive(self, key: int, files: dict[str, bytes]) -> None:
        """The files of weights whose folder is on another machine."""
        ...

    def forget(self, keys: Sequence[int]) -> None:
        """Frees weights that nobody will draw from any more."""
        ...

    def checksums(self, weights: PublishedWeights) -> dict[str, str]:
        """SHA-256 of each tensor, as it is in the worker's memory."""
        ...
