"""One rank of a cluster engine that has a part of each weight: all ranks do everything together, and in step."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from thumbs.config.losses import LossSpec
from thumbs.engine.base import AdamStep, OptimReport
from thumbs.engine.batch import pack
from thumbs.engine.checkpoints import MODEL
from thumbs.engine.plan import BatchResult
from thumbs.engine.rank import Part, Rank, register
from thumbs.engine.sharded import Layout, ShardedEngine
from thumbs.engine.sharding import OutOfStepError
from thumbs.engine.sums import ExactSums
from thumbs.models.precision import device as fastest
from thumbs.models.slices import SlicedTensors
from thumbs.models.tensor_files import checksum
from thumbs.workers.base import progress


class ShardedRank(Rank):
    """Its gradients of sharded weights are sums over all ranks already; those of what is whole meet in `optim_step`.

    A rank that fails where others wait for it ends, and its log says why.
    """

    engine: ShardedEngine

    def __init__(self, number: int, world: int, *layout: Any) -> None:
        """layout: the fields of `Layout`."""
        super().__init__(number, world)
        self._layout = Layout(*layout)

    def open(self, device: str | None, optimizer: str, reference: str) -> None:
        super().open(device, optimizer, reference)
        self._kept: dict[int, dict[str, Tensor]] = {}

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
        register(objectives)
        model, found = self._model(number), list[BatchResult]()
        root = self.engine.root(model)
        for place, data in enumerate(parts, 1):
            progress(f"micro-batch {place} of {len(parts)}" + (f", datum {min(data)}" if data else ", without data"))
            batch = pack(data, list(data), root.device) if data else None
            try:
                with torch.set_grad_enabled(backward):
                    turn = root.take_turn(model, batch, losses, temperature=temperature, everywhere=everywhere)
            except OutOfStepError:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            if turn.failed:
                if turn.error is not None:
                    raise turn.error
                return []  # the rank that failed tells the driver
            if backward:
                self._trials.setdefault(number, ExactSums()).take(self._whole(number))
            if batch is not None and turn.computed is not None:
                found.append(turn.computed.result(batch))
        return found

    def keep(self, number: int) -> None:
        super().keep(number)
        kept = self._kept.setdefault(number, {})
        for name, parameter in self._model(number).trained().items():
            if parameter.grad is not None:
                kept[name] = kept[name].add_(parameter.grad) if name in kept else parameter.grad
                parameter.grad = None

    def clear(self, number: int) -> None:
        super().clear(number)
        self._kept.pop(number, None)

    def optim_step(self, number: int, adam: AdamStep) -> OptimReport:
        parameters = self._model(number).trained()
        for name, grad in self._kept.pop(number, {}).items():
            parameters[name].grad = grad
        return super().optim_step(number, adam)

    def save(self, number: int, path: Path, *, optimizer: bool) -> None:
        """Writes a checkpoint, each rank its part."""
        self.engine.save(self._handles[number], path, optimizer=optimizer)

    def publish(self, number: int, path: Path) -> dict[str, str]:
        model = self._model(number)
        if model.adapter is not None:
            return super().publish(number, path)
        self.engine.write(model, path, ("lm",), {})
        written = SlicedTensors({path / MODEL: None})
        return {name: checksum(written.rows(name)) for name in written.shapes if self.number == 0}

    def weights(self, number: int) -> dict[str, Tensor]:
        """The same; of a model without adapters this takes its whole size on the rank that returns it."""
        model = self._model(number)
        return super().weights(number) if model.adapter is not None else self.engine.gathered(model)

    def close(self, number: int) -> None:
        super().close(number)
        self._kept.pop(number, None)

    def _whole(self, number: int) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._model(number).trained().items() if not isinstance(p, DTensor)}

    def _new_engine(self, device: torch.device | None, optimizer: str) -> ShardedEngine:
        return ShardedEngine(self._layout, device=device or fastest(), optimizer=optimizer)
