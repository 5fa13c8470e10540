"""The engine in one process. With adapters, every model of a run shares one frozen copy of the base weights."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.losses import LossSpec
from thumbs.config.model import ModelConfig
from thumbs.engine.base import AdamStep, Handle, Head, ModelSize, ModelSpec, OpenEngine, OptimReport
from thumbs.engine.batch import Batch, pack
from thumbs.engine.checkpoints import (
    ADAPTER,
    HEAD,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    naming,
    read_manifest,
    read_moments,
    read_tensors,
    write_checkpoint,
)
from thumbs.engine.compute import Computed, Model
from thumbs.engine.memory import keep_freed_memory, token_budget
from thumbs.engine.optimizers import ADAMW, OPTIMIZERS, make_optimizer, optimizer_tensors, restore_optimizer, set_rates
from thumbs.engine.plan import Cut, join_outputs, join_results, plan_batches
from thumbs.engine.shared_states import SharedStates
from thumbs.errors import CheckpointError, ConfigError, NonFiniteError
from thumbs.models.base import Adapter, FrozenAdapter, Trunk
from thumbs.models.base_identity import public_name
from thumbs.models.heads import ScalarHead
from thumbs.models.sampled_bases import to_sample_from
from thumbs.models.tensor_files import checksum
from thumbs.models.trunk import open_trunk
from thumbs.records import Example, ForwardOutput, TrainOutput
from thumbs.rollout.native import native_samplers
from thumbs.rollout.publish import SAMPLERS, OpenSampler, Published
from thumbs.rollout.sampler import DecodeText, Sampler
from thumbs.workers.pipes import PipeCrew

T = TypeVar("T")


def open_local(config: EngineConfig, rollout: RolloutConfig, decode_text: DecodeText | None) -> OpenEngine:
    """The local engine of a config."""
    device = None if config.device is None else torch.device(config.device)
    crew = None if config.logs is None else PipeCrew(Path(config.logs))
    sampler = SAMPLERS[rollout.kind](rollout, crew)
    return LocalEngine(decode_text, device=device, optimizer=config.optimizer, sampler=sampler)


class LocalEngine:
    """One process, one device (None: the fastest here). `decode_text` lets its samplers see stop strings; `optimizer`
    is a name in `optimizers.py`; `sampler` makes what `snapshot` returns (None: our own).
    """

    token_budget: int | None = None
    """Tokens of one micro-batch; None: as many as suit the device."""

    def __init__(
        self,
        decode_text: DecodeText | None = None,
        *,
        device: torch.device | None = None,
        optimizer: str = ADAMW,
        sampler: OpenSampler | None = None,
    ) -> None:
        keep_freed_memory()
        self.decode_text, self.device, self.optimizer = decode_text, device, optimizer
        _ = OPTIMIZERS[optimizer]  # a name that is none is refused before anything is computed
        self.open_sampler = sampler or native_samplers(RolloutConfig())
        self._models: dict[int, Model] = {}
        self._bases: dict[tuple[str, str, int], Trunk] = {}
        self._frozen: dict[tuple[str, str, int], Trunk] = {}
        self._states: dict[int, SharedStates] = {}
        self._next = 0

    def create(self, spec: ModelSpec) -> Handle:
        trunk, lora = self._trunk(spec), spec.model.lora
        adapter = None if lora is None else trunk.new_adapter(lora, spec.fresh_seed)
        device = trunk.head_weight().device
        head = ScalarHead(trunk.width, spec.scores, spec.fresh_seed).to(device) if "scalar" in spec.heads else None
        model = Model(spec, trunk, adapter, head, self._shared_states(trunk, adapter))
        if isinstance(spec.start, Handle):
            self._copy(self._models[spec.start.id], model)
        elif spec.start is not None:
            self._read(model, spec.start)
        self._next += 1
        self._models[self._next] = model
        return Handle(self._next, spec.name)

    @torch.no_grad()
    def forward(self, handle: Handle, data: Sequence[Example], *, temperature: float = 1.0) -> list[ForwardOutput]:
        model = self._models[handle.id]
        results = [model(batch, None, temperature=temperature).result(batch) for batch in self._batches(handle, data)]
        return list(join_outputs(results))

    def forward_backward(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, logprobs_everywhere: bool = False
    ) -> TrainOutput:
        return finish(self._passes(handle, data, losses, everywhere=logprobs_everywhere))

    def in_parts(
        self, handle: Handle, data: Sequence[Example], losses: Sequence[LossSpec], *, backward: bool = True
    ) -> Generator[None, None, TrainOutput]:
        with self._models[handle.id].trial() as keep:
            output = yield from self._passes(handle, data, losses, everywhere=True, backward=backward)
            keep()
        return output

    def _passes(
        self,
        handle: Handle,
        data: Sequence[Example],
        losses: Sequence[LossSpec],
        *,
        everywhere: bool,
        backward: bool = True,
    ) -> Generator[None, None, TrainOutput]:
        model = self._models[handle.id]
        done: list[tuple[Batch, Computed]] = []
        for batch in self._batches(handle, data):
            with torch.set_grad_enabled(backward):
                computed = model(batch, losses, everywhere=everywhere)
            if computed.loss.requires_grad:
                computed.loss.backward()
            done.append((batch, computed._replace(loss=computed.loss.detach())))
            yield
        try:
            return join_results(handle.name, [computed.result(batch) for batch, computed in done])
        except NonFiniteError:
            model.clear()
            raise

    def cut(self, handle: Handle) -> Cut:
        """How the model's data is cut into micro-batches here."""
        model = self._models[handle.id]
        budget = self.token_budget or token_budget(model.trunk, self._held(model))
        return Cut(budget, model.trunk.prefix_worth)

    def _held(self, model: Model) -> int:
        """Bytes of this process for the weights, and 12 for the gradient and the moments of each that is trained."""
        trained = sum(self._part(p).numel() for p in model.trained().values())
        return sum(self._part(p).nbytes for part in model.parts for p in part.parameters()) + 12 * trained

    def _part(self, parameter: Tensor) -> Tensor:
        """What this process has of a parameter."""
        return parameter

    def _batches(self, handle: Handle, data: Sequence[Example]) -> Iterator[Batch]:
        for group in plan_batches(data, *self.cut(handle)):
            yield pack(data, group, self._models[handle.id].device)

    def optim_step(self, handle: Handle, adam: AdamStep) -> OptimReport:
        model = self._models[handle.id]
        if not model.spec.trainable:
            raise ConfigError(f"{handle.name} was created with trainable=False; it takes no optimizer steps")
        parameters = model.trained()
        if model.optimizer is None:
            model.optimizer = make_optimizer(self.optimizer, parameters)
        set_rates(self.optimizer, model.optimizer, adam)
        norm = self._clip(list(parameters.values()), adam.max_grad_norm)
        if not np.isfinite(norm):
            model.clear()
            raise NonFiniteError(f"{handle.name}: the gradient norm became {norm}")
        model.optimizer.step()
        model.clear()
        model.steps += 1
        return OptimReport(norm, model.steps)

    def snapshot(self, handle: Handle) -> Sampler:
        model = self._models[handle.id]
        return self.open_sampler(PublishedModel(model, self.decode_text))

    def save(self, handle: Handle, path: Path, *, optimizer: bool = False) -> None:
        model = self._models[handle.id]
        tensors, files = checkpoint_of(model, model.spec.heads)
        if optimizer and model.optimizer is not None:
            tensors[OPTIMIZER] = optimizer_tensors(model.optimizer, model.trained())
        write_checkpoint(path, tensors, files)

    def load(self, handle: Handle, path: Path, *, optimizer: bool = True) -> None:
        model = self._models[handle.id]
        restored, parameters = None, model.trained()
        # Without a file there is no state: moments belong to the weights next to which they were saved.
        with naming(path / OPTIMIZER):
            moments = self._moments(path, parameters) if optimizer else None
            if moments is not None:
                restored = make_optimizer(self.optimizer, parameters)
                restore_optimizer(self.optimizer, restored, parameters, moments)
        steps = self._read(model, path)
        model.steps = steps if optimizer else 0
        model.clear()
        model.optimizer = restored

    def close(self, handle: Handle) -> None:
        del self._models[handle.id]

    def model(self, handle: Handle) -> Model:
        return self._models[handle.id]

    def frozen_base(self, model: ModelConfig) -> Trunk:
        key = _base_key(model, 0)
        if key not in self._frozen:
            self._frozen[key] = to_sample_from(self._base(model, 0))
        return self._frozen[key]

    def read_adapter(self, path: Path) -> FrozenAdapter:
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
        trunk = model.trunk
        return ModelSize(
            trained=sum(p.numel() for p in model.trained().values()),
            parameters=sum(p.numel() for part in model.parts for p in part.parameters()),
            context=trunk.context,
            width=trunk.width,
            dtype=str(trunk.dtype).removeprefix("torch."),
            trunk_bytes=sum(p.nbytes for p in trunk.parameters()),
        )

    def stop(self) -> None:
        """It started none."""

    def _trunk(self, spec: ModelSpec) -> Trunk:
        if spec.model.lora is None:
            return self._open(spec.model, spec.seed, trained=spec.trainable)
        return self._base(spec.model, spec.seed)

    def _base(self, model: ModelConfig, seed: int) -> Trunk:
        key = _base_key(model, seed)
        if key not in self._bases:
            self._bases[key] = self._open(model, seed, trained=True)
        return self._bases[key]

    def _shared_states(self, trunk: Trunk, adapter: Adapter | None) -> SharedStates | None:
        layers = trunk.below(adapter)
        return None if layers is None else self._states.setdefault(id(layers), SharedStates(layers))

    def _moments(self, path: Path, parameters: Mapping[str, nn.Parameter]) -> Mapping[str, Tensor] | None:
        """What an optimizer of these parameters remembered when the checkpoint was written."""
        return read_moments(path)

    def _put(self, model: Model, path: Path) -> None:
        """The weights of a checkpoint, scalar head apart, into a model that is like it."""
        model.put(read_tensors(path / (MODEL if model.adapter is None else ADAPTER)), str(path))

    def _clip(self, parameters: Sequence[nn.Parameter], most: float) -> float:
        """Scales the gradients down to that norm; returns what it was."""
        return float(nn.utils.clip_grad_norm_(parameters, most))

    def _open(self, model: ModelConfig, seed: int, *, trained: bool) -> Trunk:
        """The base of a model; trained: it is to be trained itself, not by an adapter."""
        return open_trunk(model, seed=seed, trained=trained, on=self.device)

    def _copy(self, theirs: Model, ours: Model) -> None:
        if ours.adapter is not None and theirs.adapter is not None:
            ours.adapter.load_state_dict(theirs.adapter.state_dict())
        elif ours.adapter is None and theirs.adapter is None:
            ours.trunk.load_state_dict(theirs.trunk.state_dict())
        else:
            raise ConfigError("a model with adapters cannot start from one without, nor the reverse")
        if ours.scalar is not None and theirs.scalar is not None:
            ours.scalar.load_state_dict(theirs.scalar.state_dict())

    def _read(self, model: Model, path: Path) -> int:
        """Puts the weights of a checkpoint into a model; returns how many steps they have been trained."""
        manifest = read_manifest(path)
        with naming(path):
            written = ModelConfig.model_validate(manifest["model"])
            if (written.name, written.lora) != (model.spec.model.name, model.spec.model.lora):
                raise CheckpointError(
                    f"{path} was written for {written.name} with {written.lora}; this model is "
                    f"{model.spec.model.name} with {model.spec.model.lora}. Use the same model settings"
                )
            self._put(model, path)
            if model.scalar is not None and "scalar" in manifest["heads"]:
                model.scalar.load_state_dict(read_tensors(path / HEAD))
            return int(manifest["steps"])


class PublishedModel(Published):
    """A model as it is when it is asked."""

    def __init__(self, model: Model, decode_text: DecodeText | None) -> None:
        self._model, self.decode_text = model, decode_text
        self.model, self.seed, self.version = model.spec.model, model.spec.seed, model.steps
        self.context = model.trunk.context

    def trunk(self) -> Trunk:
        return self._model.trunk.frozen(self._model.adapter)

    def write(self, folder: Path) -> dict[str, str]:
        tensors, files = checkpoint_of(self._model, ("lm",))
        write_checkpoint(folder, tensors, files)
        return {name: checksum(tensor) for content in tensors.values() for name, tensor in content.items()}


def checkpoint_of(model: Model, heads: Sequence[Head]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """What `write_checkpoint` writes of a model with those of its heads, optimizer apart: tensors, and JSON files."""
    tensors, files = beside_weights(model, heads)
    return {MODEL if model.adapter is None else ADAPTER: model.weights()} | tensors, files


def beside_weights(model: Model, heads: Sequence[Head]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The same without the weights of the trunk or the adapter."""
    spec = model.spec
    manifest = {"model": spec.model.model_dump(mode="json"), "heads": list(heads), "seed": spec.seed}
    files: dict[str, Any] = {MANIFEST: manifest | {"steps": model.steps}}
    if model.adapter is not None:
        files["adapter_config.json"] = model.adapter.peft_config(public_name(spec.model.name))
    else:
        files |= model.trunk.files()
    if model.scalar is None or "scalar" not in heads:
        return {}, files
    return {HEAD: dict(model.scalar.state_dict())}, files


def _base_key(model: ModelConfig, seed: int) -> tuple[str, str, int]:
    """The base of a byte model is random, so its seed is part of what it is."""
    return model.name, model.dtype, seed if model.name.startswith("byte-") else 0


def finish(work: Generator[None, None, T]) -> T:
    """What work in parts returns, all of it done at once."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value
