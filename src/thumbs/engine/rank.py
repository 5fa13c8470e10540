"""One rank of a cluster engine: a local engine in a process of its own, which computes whole micro-batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from thumbs.config.losses import LossSpec
from thumbs.engine.base import AdamStep, Handle, ModelSize, ModelSpec, OptimReport
from thumbs.engine.batch import pack
from thumbs.engine.compute import Model
from thumbs.engine.local import LocalEngine, PublishedModel
from thumbs.engine.objectives import OBJECTIVES
from thumbs.engine.optimizers import OPTIMIZERS
from thumbs.engine.plan import BatchResult, Cut
from thumbs.engine.sums import ExactSums
from thumbs.models.trunk import MODULES
from thumbs.records import Example
from thumbs.workers.base import progress

Part = Mapping[int, Example]
"""The datums of a micro-batch, by their places in the whole batch."""


class Rank:
    """Holds every model whole, by the ids that the driver gives. Its gradients are sums over its own micro-batches.

    Those of a call count only after `keep`; the ranks' sums meet in `optim_step`, and nowhere else.
    """

    def __init__(self, number: int, world: int) -> None:
        self.number, self.world = number, world
        self._store: TCPStore | None = None

    def meeting_point(self, address: str) -> int:
        """Opens the store at which the ranks meet, on a free port of this machine; returns the port."""
        self._store = TCPStore(address, 0, self.world, is_master=True, wait_for_workers=False)
        return self._store.port

    def join(self, address: str, port: int, patience_s: float) -> None:
        """Meets the others; what waits for another rank for longer than `patience_s` fails."""
        patience = timedelta(seconds=patience_s)
        store = self._store or TCPStore(address, port, self.world, is_master=False, timeout=patience)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=self.number, world_size=self.world, timeout=patience)

    def open(self, device: str | None, optimizer: str, reference: str) -> None:
        """Begins anew, without models; reference: what the optimizer's name stands for."""
        if optimizer not in OPTIMIZERS:
            OPTIMIZERS.register(optimizer, reference)
        self.engine = self._new_engine(None if device is None else torch.device(device), optimizer)
        self._handles: dict[int, Handle] = {}
        self._sums: dict[int, ExactSums] = {}
        self._trials: dict[int, ExactSums] = {}

    def create(self, number: int, spec: ModelSpec, module: str | None) -> Cut:
        """A model under the number; module: what makes its base, for one that a program registered.

        Returns how its batches are to be cut to suit this rank.
        """
        if module is not None and spec.model.name not in MODULES:
            MODULES.register(spec.model.name, module)
        if isinstance(spec.start, Handle):
            spec = replace(spec, start=self._handles[spec.start.id])
        self._handles[number] = self.engine.create(spec)
        return self.engine.cut(self._handles[number])

    def compute(
        self,
        number: int,
        parts: Sequence[Part],
        losses: Sequence[LossSpec] | None,
        objectives: Mapping[str, str],
        *,
        temperature: float = 1.0,
        everywhere: bool = False,
        backward: bool = False,
    ) -> list[BatchResult]:
        """What comes of each micro-batch; with `backward` its gradients are on trial until `keep` or `drop`.

        parts: an empty one is of a turn in which only other ranks have something to compute. objectives: what the
        names of registered ones stand for.
        """
        register(objectives)
        model, found = self._model(number), []
        for place, data in enumerate(filter(None, parts), 1):
            progress(f"micro-batch {place} of {len(parts)}, datum {min(data)}")
            batch = pack(data, list(data), model.device)
            with torch.set_grad_enabled(backward):
                computed = model(batch, losses, temperature=temperature, everywhere=everywhere)
            if computed.loss.requires_grad:
                computed.loss.backward()
                self._trials.setdefault(number, ExactSums()).take(model.trained())
            found.append(computed._replace(loss=computed.loss.detach()).result(batch))
        return found

    def keep(self, number: int) -> None:
        """Adds the gradients that are on trial to those before."""
        self._sums.setdefault(number, ExactSums()).merge(self._trials.pop(number, ExactSums()))

    def drop(self, number: int) -> None:
        """Forgets the gradients that are on trial."""
        model = self._model(number)
        model.clear()  # what the failed micro-batch left
        self._trials.pop(number, None)

    def clear(self, number: int) -> None:
        """Forgets all gradients."""
        self.drop(number)
        self._sums.pop(number, None)

    def optim_step(self, number: int, adam: AdamStep) -> OptimReport:
        """The same step on every rank, of the gradients of all of them. A collective."""
        parameters = self._model(number).trained()
        totals = self._sums.pop(number, ExactSums()).totals(parameters, self.world)
        for name, total in totals.items():
            parameters[name].grad = total
        return self.engine.optim_step(self._handles[number], adam)

    def save(self, number: int, path: Path, *, optimizer: bool) -> None:
        """Writes a checkpoint; one rank does it for all."""
        if self.number == 0:
            self.engine.save(self._handles[number], path, optimizer=optimizer)

    def load(self, number: int, path: Path, *, optimizer: bool) -> None:
        """Reads a checkpoint; every rank does."""
        self.clear(number)
        self.engine.load(self._handles[number], path, optimizer=optimizer)

    def publish(self, number: int, path: Path) -> dict[str, str]:
        """Writes a folder to sample from; the rank that does it returns SHA-256 of each tensor."""
        return PublishedModel(self._model(number), None).write(path) if self.number == 0 else {}

    def weights(self, number: int) -> dict[str, Tensor]:
        """The adapter's or the whole model's tensors, under the names on disk; from one rank for all."""
        if self.number != 0:
            return {}
        return {name: tensor.detach().cpu() for name, tensor in self._model(number).weights().items()}

    def steps(self, number: int) -> int:
        """Optimizer steps so far."""
        return self._model(number).steps

    def size(self, number: int) -> ModelSize:
        """How large the model is."""
        return self.engine.size(self._handles[number])

    def close(self, number: int) -> None:
        """Frees the model, if there is one."""
        if number in self._handles:
            self._trials.pop(number, None)
            self._sums.pop(number, None)
            self.engine.close(self._handles.pop(number))

    def _new_engine(self, device: torch.device | None, optimizer: str) -> LocalEngine:
        return LocalEngine(device=device, optimizer=optimizer)

    def _model(self, number: int) -> Model:
        return self.engine.model(self._handles[number])


def register(objectives: Mapping[str, str]) -> None:
    """Makes the names stand for objectives of a program in this process too."""
    for name, reference in objectives.items():
        if name not in OBJECTIVES:
            OBJECTIVES.register(name, reference)
