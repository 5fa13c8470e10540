"""The engine: eight verbs on model handles. It knows models, datums and named losses; it does not know algorithms.

What a few callers need beyond the verbs is in small protocols below; `open_engine` gives all of them, and an engine
that cannot do something says so with ConfigError when it is asked. tests/contract runs one suite over every engine.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.records import Example, ForwardOutput, TrainOutput
from thumbs.rollout.sampler import Sampler

if TYPE_CHECKING:
    from thumbs.models.base import FrozenAdapter, Trunk
    from thumbs.rollout.publish import OpenSampler

Head = Literal["lm", "scalar"]


@dataclass(frozen=True)
class Handle:
    """A model in an engine. Stages hold this, never a torch module."""

    id: int
    name: str


@dataclass(frozen=True)
class ModelSpec:
    """What `create` makes: a base, an optional adapter (in `model.lora`), heads, and where the weights come from.

    adapter_seed: of a fresh adapter and head, where it differs from `seed`, of which the base of a byte model is made.
    scores: how many numbers the scalar head gives at each place; more than one is an ensemble on one trunk.
    start: a checkpoint folder or another handle whose trunk weights are copied; None: the base model itself.
    trainable: False makes a frozen model (reference, reward model at work), which keeps no optimizer state.
    """

    name: str
    model: ModelConfig
    heads: tuple[Head, ...] = ("lm",)
    start: Path | Handle | None = None
    trainable: bool = True
    freeze_trunk: bool = False
    seed: int = 0
    adapter_seed: int | None = None
    scores: int = 1

    @property
    def fresh_seed(self) -> int:
        """Seed of what is new in the model: its adapter and head."""
        return self.seed if self.adapter_seed is None else self.adapter_seed


@dataclass(frozen=True)
class AdamStep:
    """One optimizer step: rates are what the schedule gives now; a rate of 0 leaves that group untouched."""

    learning_rate: float
    head_learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class OptimReport:
    """grad_norm before clipping (L2 over all trained weights) and the number of optimizer steps so far."""

    grad_norm: float
    step: int


@dataclass(frozen=True)
class ModelSize:
    """trained, parameters: numbers of weights, the shared base among all; context: tokens; width: channels; dtype: what
    computes; trunk_bytes: what the trunk's weights take in memory.
    """

    trained: int
    parameters: int
    context: int
    width: int
    dtype: str
    trunk_bytes: int


class Engine(Protocol):
    """create, forward, forward_backward, optim_step, snapshot, save, load, close."""

    def create(self, spec: ModelSpec) -> Handle:
        """A new model."""
        ...

    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        """Without gradients: logprobs (at `temperature`) where `weights` is not 0, and scalar-head values."""
        ...

    def forward_backward(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        """Adds the gradients of the sum of `losses`; one pass through the trunk serves them all.

        Logprobs come back where `weights` is not 0, or at every position if requested (which costs about half as much
        per extra position).
        """
        ...

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        """Clips, steps, clears; raises NonFiniteError and steps nothing when a gradient is not finite."""
        ...

    def snapshot(self, handle: Handle) -> Sampler:
        """Frozen weights to sample from, stamped with the number of optimizer steps taken."""
        ...

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        """Writes the weights (PEFT or Hugging Face format) and the scalar head to a folder, atomically."""
        ...

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        """Reads what `save` wrote, with optimizer state when it is there and wanted; gradients are forgotten."""
        ...

    def close(self, handle: Handle) -> None:
        """Frees the model."""
        ...


class SharedEngine(Protocol):
    """For those who serve several clients, whose models take turns."""

    def in_parts(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        """`forward_backward` that gives way after each part. Logprobs come back everywhere.

        When it fails, or is closed, the gradients are those of before; with backward=False it adds none.
        """
        ...


class AdapterSource(Protocol):
    """For those who sample with many adapters on one base."""

    def frozen_base(self, model: ModelConfig) -> Trunk:
        """The base that adapters share, to sample from; the same one at every call."""
        ...

    def read_adapter(self, path: Path) -> FrozenAdapter:
        """The adapter of a checkpoint, to sample from on the `frozen_base` of its model."""
        ...


class OpenEngine(Engine, SharedEngine, AdapterSource, Protocol):
    """What `open_engine` gives. open_sampler: what makes its samplers, in this process or in others."""

    open_sampler: OpenSampler

    def size(self, handle: Handle) -> ModelSize:
        """How large a model is."""
        ...

    def stop(self) -> None:
        """Ends the processes that it started, and with them its models."""
        ...
