"""The engine in one process. With adapters, every model of a run shares one frozen copy of the base weights."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thumbs.config.engine import EngineConfig
from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, ModelSize, ModelSpec, OpenEngine, OptimReport
from thumbs.engine.batch import Batch, micro_batches
from thumbs.engine.checkpoints import (
    ADAPTER,
    HEAD,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    naming,
    read_manifest,
    read_tensors,
    write_checkpoint,
)
from thumbs.engine.compute import Computed, Network, losses_of, predict
from thumbs.engine.memory import keep_freed_memory
from thumbs.engine.optimizers import ADAMW, make_optimizer, optimizer_tensors, restore_optimizer, set_rates
from thumbs.engine.shared_states import SharedStates
from thumbs.errors import CheckpointError, ConfigError, NonFiniteError
from thumbs.models.base import Adapter, FrozenAdapter, Trunk, Weights
from thumbs.models.base_identity import public_name
from thumbs.models.heads import ScalarHead
from thumbs.models.trunk import open_trunk
from thumbs.records import Datum, ForwardOutput, TrainOutput
from thumbs.rollout.native import NativeSampler


@dataclass
class _Model:
    """What stands behind a handle."""

    spec: ModelSpec
    network: Network
    optimizer: torch.optim.Optimizer | None
    steps: int = 0

    def trained(self) -> dict[str, nn.Parameter]:
        """The parameters that this model trains, by name."""
        network = self.network
        parts: dict[str, Weights | None] = {"scalar": network.scalar}
        if not self.spec.freeze_trunk:
            parts["trunk"] = network.adapter if network.adapter is not None else network.trunk
        return {
            f"{part}.{name}": parameter
            for part, module in parts.items()
            if module is not None
            for name, parameter in module.named_parameters()
        }


class LocalEngine:
    """One process, one device (None: the fastest here). `decode_text` lets its samplers see stop strings; `optimizer`
    is a name in `optimizers.py`.
    """

    def __init__(
        self,
        decode_text: Callable[[list[int]], str] | None = None,
        *,
        device: torch.device | None = None,
        optimizer: str = ADAMW,
    ) -> None:
        keep_freed_memory()
        self.decode_text, self.device, self.optimizer = decode_text, device, optimizer
        self._models: dict[int, _Model] = {}
        self._bases: dict[tuple[str, str, int], Trunk] = {}
        self._frozen: dict[tuple[str, str, int], Trunk] = {}
        self._states: dict[int, SharedStates] = {}
        self._next = 0

    def create(self, spec: ModelSpec) -> Handle:
        trunk, lora = self._trunk(spec), spec.model.lora
        adapter = None if lora is None else trunk.new_adapter(lora, spec.fresh_seed)
        head = ScalarHead(trunk.width, spec.scores, spec.fresh_seed).to(_device(trunk))
        scalar = head if "scalar" in spec.heads else None
        below = self._shared_states(trunk, adapter)
        network = Network(trunk, adapter, scalar, "lm" in spec.heads, spec.freeze_trunk, below)
        model = _Model(spec, network, None)
        if not spec.trainable:
            for module in (trunk, adapter, scalar):
                _ = module.requires_grad_(False) if module is not None else None
        self._next += 1
        handle = Handle(self._next, spec.name)
        self._models[handle.id] = model
        if isinstance(spec.start, Handle):
            self._copy(self._models[spec.start.id], model)
        elif spec.start is not None:
            self._read(model, spec.start)
        return handle

    @torch.no_grad()
    def forward(self, handle: Handle, data: Sequence[Datum], *, temperature: float = 1.0) -> list[ForwardOutput]:
        network = self._models[handle.id].network
        found: dict[int, ForwardOutput] = {}
        for batch in micro_batches(data, _device(network.trunk), worth=network.trunk.prefix_worth):
            logprobs, values = predict(network, batch, temperature)
            found |= _outputs(batch, logprobs, values)
        return [found[i] for i in range(len(data))]

    def forward_backward(
        self, handle: Handle, data: Sequence[Datum], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        return _finish(self._passes(handle, data, losses, everywhere=logprobs_everywhere))

    def in_parts(
        self, handle: Handle, data: Sequence[Datum], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        """`forward_backward` for those who serve others too: it gives way after each micro-batch, takes back its
        gradients when it fails, and with backward=False adds none. Logprobs come back everywhere.
        """
        parameters = self._models[handle.id].trained().values()
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        failed = True
        try:
            output = yield from self._passes(handle, data, losses, everywhere=True, backward=backward)
            failed = False
        finally:
            for parameter, grad in zip(parameters, before, strict=True):
                if failed or parameter.grad is None:
                    parameter.grad = grad
                elif grad is not None:
                    parameter.grad += grad
        return output

    def _passes(
        self,
        handle: Handle,
        data: Sequence[Datum],
        losses: Sequence[LossSpec],
        *,
        everywhere: bool,
        backward: bool = True,
    ) -> Generator[None, None, TrainOutput]:
        model = self._models[handle.id]
        trunk = model.network.trunk
        found: dict[int, ForwardOutput] = {}
        done: list[Computed] = []
        for batch in micro_batches(data, _device(trunk), worth=trunk.prefix_worth):
            with torch.set_grad_enabled(backward):
                computed = losses_of(model.network, batch, losses, logprobs_everywhere=everywhere)
            if not torch.isfinite(computed.loss):
                self._clear(model)
                raise NonFiniteError(f"{handle.name}: the loss became {float(computed.loss.detach())}")
            if computed.loss.requires_grad:
                computed.loss.backward()
            found |= _outputs(batch, computed.logprobs, computed.values, computed.by_target)
            done.append(replace(computed, loss=computed.loss.detach()))
            yield
        loss = float(sum(float(c.loss) for c in done))
        return TrainOutput(loss, tuple(found[i] for i in range(len(data))), _merge(done))

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        model = self._models[handle.id]
        if not model.spec.trainable:
            raise ConfigError(f"{handle.name} was created with trainable=False; it takes no optimizer steps")
        parameters = model.trained()
        if model.optimizer is None:
            model.optimizer = make_optimizer(self.optimizer, parameters)
        set_rates(self.optimizer, model.optimizer, adam)
        norm = float(nn.utils.clip_grad_norm_(list(parameters.values()), adam.max_grad_norm))
        if not np.isfinite(norm):
            self._clear(model)
            raise NonFiniteError(f"{handle.name}: the gradient norm became {norm}")
        model.optimizer.step()
        self._clear(model)
        model.steps += 1
        return OptimReport(norm, model.steps)

    def snapshot(self, handle: Handle) -> NativeSampler:
        model = self._models[handle.id]
        frozen = model.network.trunk.frozen(model.network.adapter)
        return NativeSampler(frozen, model.steps, self.decode_text)

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        model = self._models[handle.id]
        network, spec = model.network, model.spec
        tensors: dict[str, dict[str, Tensor]] = {}
        files: dict[str, Any] = {
            MANIFEST: {
                "model": spec.model.model_dump(mode="json"),
                "heads": list(spec.heads),
                "seed": spec.seed,
                "steps": model.steps,
            }
        }
        if network.adapter is not None:
            tensors[ADAPTER] = network.adapter.peft_state()
            files["adapter_config.json"] = network.adapter.peft_config(public_name(spec.model.name))
        else:
            tensors[MODEL] = network.trunk.tensors()
            files |= network.trunk.files()
        if network.scalar is not None:
            tensors[HEAD] = dict(network.scalar.state_dict())
        if optimizer and model.optimizer is not None:
            tensors[OPTIMIZER] = optimizer_tensors(model.optimizer, model.trained())
        write_checkpoint(path, tensors, files)

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        model = self._models[handle.id]
        restored = None  # without a file there is no state: moments belong to the weights beside which they were saved
        if optimizer and (path / OPTIMIZER).exists():
            parameters = model.trained()
            restored = make_optimizer(self.optimizer, parameters)
            with naming(path / OPTIMIZER):
                restore_optimizer(self.optimizer, restored, parameters, read_tensors(path / OPTIMIZER))
        steps = self._read(model, path)
        model.steps = steps if optimizer else 0
        self._clear(model)
        model.optimizer = restored

    def close(self, handle: Handle) -> None:
        del self._models[handle.id]

    def frozen_base(self, model: ModelConfig) -> Trunk:
        """The base that adapters share, to sample from; the same one at every call."""
        key = _base_key(model, 0)
        if key not in self._frozen:
            self._frozen[key] = self._base(model, 0).frozen()
        return self._frozen[key]

    def frozen_adapter(self, handle: Handle) -> FrozenAdapter:
        """The model's adapter as it is now, to sample from on `frozen_base`."""
        network = self._models[handle.id].network
        if network.adapter is None:
            raise ConfigError(f"{handle.name} has no adapter; take a snapshot of it")
        return network.trunk.freeze(network.adapter)

    def read_adapter(self, path: Path) -> FrozenAdapter:
        """The adapter of a checkpoint, to sample from on the `frozen_base` of its model."""
        with naming(path):
            model = ModelConfig.model_validate(read_manifest(path)["model"])
            if model.lora is None:
                raise ConfigError(f"{path} holds a whole model, no adapter")
            trunk = self._base(model, 0)
            adapter = trunk.new_adapter(model.lora, 0)
            adapter.load_peft_state(read_tensors(path / ADAPTER))
        return trunk.freeze(adapter)

    def size(self, handle: Handle) -> ModelSize:
        model = self._models[handle.id]
        network, trunk = model.network, model.network.trunk
        parts = [p for m in (trunk, network.adapter, network.scalar) if m is not None for p in m.parameters()]
        trained = sum(p.numel() for p in model.trained().values())
        return ModelSize(
            trained=trained,
            parameters=sum(p.numel() for p in parts),
            context=trunk.context,
            width=trunk.width,
            dtype=str(trunk.dtype).removeprefix("torch."),
            trunk_bytes=sum(p.nbytes for p in trunk.parameters()),
        )

    def _trunk(self, spec: ModelSpec) -> Trunk:
        if spec.model.lora is None:
            return open_trunk(spec.model, seed=spec.seed, trained=spec.trainable, on=self.device)
        return self._base(spec.model, spec.seed)

    def _base(self, model: ModelConfig, seed: int) -> Trunk:
        key = _base_key(model, seed)
        if key not in self._bases:
            self._bases[key] = open_trunk(model, seed=seed, on=self.device)
        return self._bases[key]

    def _shared_states(self, trunk: Trunk, adapter: Adapter | None) -> SharedStates | None:
        layers = trunk.below(adapter)
        return None if layers is None else self._states.setdefault(id(layers), SharedStates(layers))

    def _copy(self, source: _Model, target: _Model) -> None:
        theirs, ours = source.network, target.network
        if ours.adapter is not None and theirs.adapter is not None:
            ours.adapter.load_state_dict(theirs.adapter.state_dict())
        elif ours.adapter is None and theirs.adapter is None:
            ours.trunk.load_state_dict(theirs.trunk.state_dict())
        else:
            raise ConfigError("a model with adapters cannot start from one without, nor the reverse")
        if ours.scalar is not None and theirs.scalar is not None:
            ours.scalar.load_state_dict(theirs.scalar.state_dict())

    def _read(self, model: _Model, path: Path) -> int:
        """Puts the weights of a checkpoint into a model; returns how many steps they have been trained."""
        manifest, network = read_manifest(path), model.network
        with naming(path):
            written = ModelConfig.model_validate(manifest["model"])
            if (written.name, written.lora) != (model.spec.model.name, model.spec.model.lora):
                raise CheckpointError(
                    f"{path} was written for {written.name} with {written.lora}; this model is "
                    f"{model.spec.model.name} with {model.spec.model.lora}. Use the same model settings"
                )
            if network.adapter is not None:
                network.adapter.load_peft_state(read_tensors(path / ADAPTER))
            else:
                network.trunk.load_tensors(read_tensors(path / MODEL), str(path))
            if network.scalar is not None and "scalar" in manifest["heads"]:
                network.scalar.load_state_dict(read_tensors(path / HEAD))
            return int(manifest["steps"])

    def _clear(self, model: _Model) -> None:
        for parameter in model.trained().values():
            parameter.grad = None


def open_local(config: EngineConfig, decode_text: Callable[[list[int]], str] | None) -> OpenEngine:
    """The local engine of a config."""
    device = None if config.device is None else torch.device(config.device)
    return LocalEngine(decode_text, device=device, optimizer=config.optimizer)


def _base_key(model: ModelConfig, seed: int) -> tuple[str, str, int]:
    """The base of a byte model is random, so its seed is part of what it is."""
    return model.name, model.dtype, seed if model.name.startswith("byte-") else 0


def _finish(work: Generator[None, None, TrainOutput]) -> TrainOutput:
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def _device(trunk: Trunk) -> torch.device:
    return trunk.head_weight().device


def _outputs(batch: Batch, *found: Tensor) -> dict[int, ForwardOutput]:
    pieces = zip(batch.order, *(batch.split(x.float().cpu()) for x in found), strict=True)
    return {index: ForwardOutput(*(piece.numpy() for piece in own)) for index, *own in pieces}


def _merge(done: Sequence[Computed]) -> dict[str, float]:
    """Means of the micro-batches' metrics by their weight; sums of `_sum`, maxima of `_max`."""
    total = sum(c.weight for c in done) or 1.0
    merged: dict[str, float] = {}
    for name in done[0].metrics:
        values = [float(c.metrics[name]) for c in done]
        if name.endswith("_max"):
            merged[name] = max(values)
        elif name.endswith("_sum"):
            merged[name] = sum(values)
        else:
            merged[name] = sum(v * c.weight for v, c in zip(values, done, strict=True)) / total
    return merged
