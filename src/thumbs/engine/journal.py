"""An engine whose ranks may be lost: what was asked since the last save of each model is done again by new ones.

Seeds have no state and sums do not depend on the ranks, so the models end with the same bits, and whoever asked has
waited longer, and knows nothing else of it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSize, ModelSpec, OpenEngine, OptimReport
from thumbs.engine.cluster import ClusterEngine, start_ranks
from thumbs.engine.local import finish
from thumbs.errors import NonFiniteError, WorkerLost
from thumbs.models.base import FrozenAdapter, Trunk
from thumbs.records import Example, ForwardOutput, TrainOutput
from thumbs.rollout.publish import SAMPLERS
from thumbs.rollout.sampler import DecodeText, Sampler
from thumbs.workers import CREWS
from thumbs.workers.base import Crew, RemoteWorker

RESTARTS = 3
"""How often the ranks are started again for one verb."""

MAX_TOKENS = 2**22
"""Tokens of passes that a journal holds, some 100 MB; beyond them it writes a checkpoint of its own."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(eq=False)
class _History:
    """What made a model what it is. handle: of the engine within; base: the checkpoint from which it went on, and
    whether with the optimizer's state; verbs: those since, of which the last `pending` are gradients without a step.
    """

    spec: ModelSpec
    handle: Handle
    base: tuple[Path, bool] | None = None
    verbs: list[Callable[[Handle], object]] = field(default_factory=list)
    pending: int = 0
    tokens: int = 0

    def stepped(self, *, kept: bool) -> None:
        """The pending gradients have gone: into a step that was `kept`, or nowhere."""
        if not kept:
            del self.verbs[len(self.verbs) - self.pending :]
        self.pending = 0

    def saved(self, base: Path, *, optimizer: bool) -> None:
        """A checkpoint holds everything but the pending gradients."""
        self.base, self.tokens = (base, optimizer), 0
        del self.verbs[: len(self.verbs) - self.pending]


def open_cluster(config: EngineConfig, rollout: RolloutConfig, decode_text: DecodeText | None) -> OpenEngine:
    """The cluster engine of a config, with its ranks started, that outlives them."""
    crew = CREWS[config.launcher](None if config.logs is None else Path(config.logs))
    start = partial(start_ranks, crew, config)
    engine = ClusterEngine(
        started(start),
        decode_text,
        device=config.device,
        optimizer=config.optimizer,
        sampler=SAMPLERS[rollout.kind](rollout, crew),
        patience_s=config.patience_s,
        in_step=config.shard != "none",
    )
    return JournalEngine(engine, start, crew)


def started(start: Callable[[], list[RemoteWorker]]) -> list[RemoteWorker]:
    """The first ranks; some that are lost while they start are started again."""
    for left in reversed(range(RESTARTS)):
        try:
            return start()
        except WorkerLost as error:
            log.warning("%s\nThe ranks are started again, up to %d times", error, left + 1)
    return start()


class JournalEngine:
    """A cluster engine with a journal. start: starts new ranks; crew: theirs, which is closed in the end, and next to
    whose logs checkpoints are kept, as all ranks must see them.
    """

    def __init__(self, inner: ClusterEngine, start: Callable[[], list[RemoteWorker]], crew: Crew) -> None:
        self.inner, self._start, self._crew = inner, start, crew
        self._folder = crew.logs / "journal"
        self._models: dict[int, _History] = {}
        self._next = 0
        self.open_sampler = inner.open_sampler
        shutil.rmtree(self._folder, ignore_errors=True)

    def create(self, spec: ModelSpec) -> Handle:
        self._next += 1
        handle, start = Handle(self._next, spec.name), spec.start

        def make() -> _History:
            if not isinstance(start, Handle):
                return _History(spec, self.inner.create(spec))
            made = self.inner.create(replace(spec, start=self._models[start.id].handle))
            self.inner.save(made, self._base(handle))  # the other one will go its own way
            return _History(replace(spec, start=None), made, (self._base(handle), False))

        self._models[handle.id] = self._do(make)
        return handle

    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        model = self._models[handle.id]
        return self._do(lambda: self.inner.forward(model.handle, data, temperature=temperature))

    def forward_backward(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        model = self._models[handle.id]

        def work(at: Handle) -> TrainOutput:
            return self.inner.forward_backward(at, data, losses, logprobs_everywhere=logprobs_everywhere)

        try:
            output = self._do(lambda: work(model.handle))
        except NonFiniteError:
            model.stepped(kept=False)
            raise
        self._note(model, work, data)
        return output

    def in_parts(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        model = self._models[handle.id]

        def work(at: Handle) -> Generator[None, None, TrainOutput]:
            return self.inner.in_parts(at, data, losses, backward=backward)

        output = yield from self._parts(model, work)
        if backward:
            self._note(model, lambda at: finish(work(at)), data)
        return output

    def _parts(
        self, model: _History, work: Callable[[Handle], Generator[None, None, TrainOutput]]
    ) -> Generator[None, None, TrainOutput]:
        """What `work` gives, begun again when the ranks are new, whoever it was that noticed the loss."""
        left = RESTARTS
        while True:
            handle = model.handle
            parts = work(handle)
            try:
                while model.handle == handle:
                    next(parts)
                    yield
            except StopIteration as done:
                return done.value
            except WorkerLost as error:
                self._recover(error, left)
                left -= 1
            finally:
                parts.close()

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        model = self._models[handle.id]
        try:
            report = self._do(lambda: self.inner.optim_step(model.handle, adam))
        except NonFiniteError:
            model.stepped(kept=False)
            raise
        model.verbs.append(lambda at: self.inner.optim_step(at, adam))
        model.stepped(kept=True)
        if model.tokens > MAX_TOKENS:
            self._do(lambda: self.inner.save(model.handle, self._base(handle), optimizer=True))
            model.saved(self._base(handle), optimizer=True)
        return report

    def snapshot(self, handle: Handle) -> Sampler:
        model = self._models[handle.id]
        return self._do(lambda: self.inner.snapshot(model.handle))

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        model = self._models[handle.id]
        self._do(lambda: self.inner.save(model.handle, path, optimizer=optimizer))
        if optimizer:
            model.saved(self._kept(handle, path), optimizer=True)

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        model = self._models[handle.id]
        self._do(lambda: self.inner.load(model.handle, path, optimizer=optimizer))
        model.stepped(kept=False)
        model.saved(self._kept(handle, path), optimizer=optimizer)

    def close(self, handle: Handle) -> None:
        model = self._models.pop(handle.id)
        self._do(lambda: self.inner.close(model.handle))
        shutil.rmtree(self._base(handle), ignore_errors=True)

    def frozen_base(self, model: ModelConfig) -> Trunk:
        return self.inner.frozen_base(model)

    def read_adapter(self, path: Path) -> FrozenAdapter:
        return self.inner.read_adapter(path)

    def size(self, handle: Handle) -> ModelSize:
        model = self._models[handle.id]
        return self._do(lambda: self.inner.size(model.handle))

    def stop(self) -> None:
        """Ends the ranks, and whatever else their crew has started."""
        self.inner.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._crew.close()

    def _do(self, work: Callable[[], T]) -> T:
        """What `work` gives, by new ranks if some are lost over it."""
        for left in reversed(range(RESTARTS)):
            try:
                return work()
            except WorkerLost as error:
                self._recover(error, left + 1)
        return work()

    def _recover(self, error: WorkerLost, left: int) -> None:
        """New ranks, and the models as they were; raises the error if there is no attempt left."""
        while True:
            if not left:
                raise error
            verbs = sum(len(model.verbs) for model in self._models.values())
            log.warning("%s\nThe ranks are started again; %d verbs since the last saves are done again", error, verbs)
            self.inner.stop()
            try:
                self.inner.renew(self._start())
                for model in self._models.values():
                    self._replay(model)
            except WorkerLost as again:
                error, left = again, left - 1
            else:
                return

    def _replay(self, model: _History) -> None:
        spec = model.spec if model.base is None else replace(model.spec, start=None)
        model.handle = self.inner.create(spec)
        if model.base is not None:
            path, optimizer = model.base
            self.inner.load(model.handle, path, optimizer=optimizer)
        for verb in model.verbs:
            verb(model.handle)

    def _note(self, model: _History, verb: Callable[[Handle], object], data: Sequence[Example]) -> None:
        model.verbs.append(verb)
        model.pending += 1
        model.tokens += sum(map(len, data))

    def _kept(self, handle: Handle, path: Path) -> Path:
        """The checkpoint in a folder of our own, since others may delete theirs; files are shared where they can be."""
        base = self._base(handle)
        new = base.with_name(f"{base.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(path, new, copy_function=_link)
        shutil.rmtree(base, ignore_errors=True)
        new.rename(base)
        return base

    def _base(self, handle: Handle) -> Path:
        return self._folder / f"model-{handle.id}"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
