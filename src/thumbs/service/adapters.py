"""Adapters that no client trained here: uploaded ones and mixtures. They become checkpoints of a run of their own.

Whatever a stranger's files hold is held against the model before it is read: names, shapes and dtypes by the header of
the file, then numbers. What is kept loads.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thumbs.clients import types
from thumbs.clients.backend import ALPHA, ATTENTION, MLP, Backend
from thumbs.config.model import ADAPTED, AdapterConfig
from thumbs.engine.checkpoints import ADAPTER, MANIFEST, OPTIMIZER, write_checkpoint
from thumbs.engine.optimizers import ADAMW, make_optimizer, restore_optimizer
from thumbs.errors import CheckpointError, ConfigError, DataError
from thumbs.models.base import Trunk, Weights
from thumbs.models.base_identity import public_name
from thumbs.service.requests import explain

log = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
PEFT_FILES = (CONFIG, ADAPTER)
MOST_RANK = 1024
_MOST_CONFIG_BYTES = 1 << 20
_A, _B = ".lora_A.weight", ".lora_B.weight"
_FLOATS = {"F64", "F32", "F16", "BF16"}

IGNORED = {
    "auto_mapping": "which classes PEFT wraps",
    "eva_config": "how the first weights were made; the file has the last ones",
    "inference_mode": "whether PEFT trains it",
    "lora_dropout": "is for training with PEFT; there is none here",
    "loftq_config": "how the first weights were made; the file has the last ones",
    "megatron_core": "names a module of a trainer",
    "peft_version": "who wrote the file",
    "qalora_group_size": "counts only with use_qalora",
    "revision": "of the base on a hub; the base is the one that is served",
    "task_type": "which class PEFT wraps",
}
"""Keys of adapter_config.json that change nothing here, each with the reason."""


class _PeftConfig(BaseModel):
    """What is read of adapter_config.json. Other keys are in IGNORED, or say nothing (null, false, empty)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    base_model_name_or_path: str = ""
    peft_type: str = "LORA"
    r: int = Field(ge=1, le=MOST_RANK)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: tuple[str, ...]
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    layers_to_transform: int | tuple[int, ...] | None = None

    def refused(self, layers: int) -> list[str]:
        """Names of the keys that ask for what is not served."""
        asked = {key: value for key, value in (self.model_extra or {}).items() if value and key not in IGNORED}
        chosen = self.layers_to_transform
        # Other starts (PiSSA, OLoRA, …) move a part of the base's weights into the adapter.
        moved = str(self.init_lora_weights).lower() not in ("true", "false", "none", "gaussian", "eva", "orthogonal")
        whole = chosen is None or (not isinstance(chosen, int) and set(chosen) == set(range(layers)))
        known = {"peft_type": self.peft_type != "LORA", "bias": self.bias != "none"}
        known |= {"init_lora_weights": moved, "layers_to_transform": not whole}
        return [*asked, *(key for key, wrong in known.items() if wrong)]


@dataclass(frozen=True)
class PeftAdapter:
    """Tensors under PEFT's names, scaled to the alpha that every adapter here has."""

    base: str
    """The base model as the file names it; empty where it names none."""
    rank: int
    targets: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer, where the folder came from here."""


def base_of(folder: Path) -> str:
    """The base model that the adapter in a folder of PEFT's layout names; raises DataError if there is none."""
    if missing := [name for name in PEFT_FILES if not (folder / name).is_file()]:
        raise DataError(f"there is no {' and no '.join(missing)}; needed is an adapter in PEFT's layout")
    return _read_config(folder / CONFIG).base_model_name_or_path


def read_adapter(folder: Path, trunk: Trunk) -> PeftAdapter:
    """The adapter in a folder of PEFT's layout, for a base like `trunk`; raises DataError if it does not fit.

    The errors name the file and the tensor, and no folder.
    """
    base = base_of(folder)
    config = _read_config(folder / CONFIG)
    if refused := config.refused(trunk.depth):
        raise DataError(f"{CONFIG} sets {', '.join(sorted(refused))}; plain LoRA on all layers is what is served")
    lora = AdapterConfig(rank=config.r, alpha=ALPHA, targets=_targets(config, trunk))
    adapter = trunk.new_adapter(lora, 0)
    shapes = {name: tuple(tensor.shape) for name, tensor in adapter.peft_state().items()}
    tensors = _read(folder / ADAPTER, shapes)
    scale = config.lora_alpha / ALPHA
    scaled = {name: tensor.float() * (scale if name.endswith(_B) else 1.0) for name, tensor in tensors.items()}
    if wrong := [name for name, tensor in scaled.items() if not bool(torch.isfinite(tensor).all())]:
        raise DataError(f"{ADAPTER}: {wrong[0]} holds NaN or infinite numbers, or so it does with lora_alpha")
    state: dict[str, Tensor] = {}
    if (folder / OPTIMIZER).is_file():
        if scale != 1:
            raise DataError(
                f"{OPTIMIZER} is of an adapter with lora_alpha {ALPHA:g}; {CONFIG} says {config.lora_alpha}"
            )
        state = _read_optimizer(folder / OPTIMIZER, adapter)
    return PeftAdapter(base, config.r, lora.targets, scaled, state)


def mix(adapters: Sequence[PeftAdapter], coefficients: Sequence[float]) -> PeftAdapter:
    """The adapter whose change of the weights is Σ c · change, exactly: its rank is the sum of theirs.

    With A below each other and B next to each other, B A is the sum of the products; c · total rank / rank gives each
    product its scale back. Raises DataError if the adapters do not adapt the same layers, their ranks are too many,
    or the sum is not finite.
    """
    first = adapters[0]
    if any(each.tensors.keys() != first.tensors.keys() for each in adapters):
        raise DataError("the checkpoints do not adapt the same layers, so they cannot be mixed")
    rank = sum(each.rank for each in adapters)
    if rank > MOST_RANK:
        raise DataError(f"the ranks of the checkpoints add up to {rank}; a mixture has {MOST_RANK} at most")
    tensors = {}
    for name in first.tensors:
        if name.endswith(_A):
            tensors[name] = torch.cat([each.tensors[name] for each in adapters], 0)
        else:
            scaled = [c * rank / each.rank * each.tensors[name] for c, each in zip(coefficients, adapters, strict=True)]
            tensors[name] = torch.cat(scaled, 1)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise DataError(f"coefficients {list(coefficients)} make a mixture with infinite numbers; give smaller ones")
    return PeftAdapter(first.base, rank, first.targets, tensors)


def keep(backend: Backend, owner: str, base_model: str, adapter: PeftAdapter, kind: str, name: str) -> str:
    """Makes the adapter a checkpoint of a new run on `base_model`; returns its path."""
    store, targets = backend.store, set(adapter.targets)
    lora = AdapterConfig(rank=adapter.rank, alpha=ALPHA, targets=adapter.targets)
    model = backend.bases[base_model].config.model_copy(update={"lora": lora})
    attention, mlp = targets >= set(ATTENTION), targets >= set(MLP)
    # Clients know the two groups alone; an adapter on a part of one can be sampled, and not trained on.
    exact = targets == {*(ATTENTION if attention else ()), *(MLP if mlp else ())}
    session_id = store.add_session(owner, tags=("adapter",))
    run_id = f"{session_id}:train:0"
    groups = {"train_unembed": False, "train_mlp": exact and mlp, "train_attn": exact and attention}
    store.add_run(run_id, session_id, owner, base_model, types.LoraConfig(rank=adapter.rank, **groups))
    # Written anew, whatever came with the adapter: the manifest says what is loaded, and a stranger must not.
    files = {
        MANIFEST: {"model": model.model_dump(mode="json"), "heads": ["lm"], "seed": 0, "steps": 0},
        CONFIG: _peft_config(backend.bases[base_model].shape, adapter.targets, public_name(model.name))
        | {"r": lora.rank, "lora_alpha": lora.alpha},
    }
    tensors = {ADAPTER: dict(adapter.tensors)} | ({OPTIMIZER: dict(adapter.optimizer)} if adapter.optimizer else {})
    with store.checkpoints.writing(run_id, kind, name) as folder:
        try:
            write_checkpoint(folder, tensors, files)
        except CheckpointError as error:  # it tells where on this machine the folder is
            log.warning("an adapter of %s: %s", owner, error)
            free = shutil.disk_usage(folder.parent).free / 2**30
            raise DataError(f"the adapter could not be written; the server has {free:.1f} GiB left") from None
    store.finish_session(session_id, "success")
    return f"tinker://{run_id}/{kind}/{name}"


def _read_config(file: Path) -> _PeftConfig:
    with file.open("rb") as source:
        raw = source.read(_MOST_CONFIG_BYTES)  # a longer one is cut and so no JSON
    try:
        given = json.loads(raw)
        if isinstance(given, dict):  # null is absent
            given = {key: value for key, value in given.items() if value is not None}
        config = _PeftConfig.model_validate(given)
    except ValidationError as error:
        raise DataError(f"{CONFIG}: {explain(error)}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{CONFIG} is not JSON of at most {_MOST_CONFIG_BYTES} bytes") from None
    if not config.target_modules:
        raise DataError(f"{CONFIG}: target_modules names no layers")
    return config


def _peft_config(trunk: Trunk, targets: tuple[str, ...], base: str | None) -> dict[str, Any]:
    """What PEFT is told of an adapter of rank 1; raises ConfigError for targets that the trunk has not."""
    return trunk.new_adapter(AdapterConfig(rank=1, targets=targets), 0).peft_config(base)


def _targets(config: _PeftConfig, trunk: Trunk) -> tuple[str, ...]:
    """The targets in our words: the groups that a client can ask for, if they are meant, else the names themselves."""
    try:
        for group in ((*ATTENTION, *MLP), ATTENTION, MLP):
            if set(_peft_config(trunk, group, None)["target_modules"]) == set(config.target_modules):
                return group
        targets = tuple(sorted(set(config.target_modules), key=(*ADAPTED, *config.target_modules).index))
        _peft_config(trunk, targets, None)
    except ConfigError as error:
        raise DataError(f"{CONFIG}: target_modules names {', '.join(config.target_modules)[:200]}; {error}") from None
    return targets


def _read(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors, all of these shapes and no others; raises DataError before any is read where the header differs."""
    try:
        with safe_open(file, "pt") as source:
            names = set(source.keys())
            if names != shapes.keys():
                parts = (("lacks", shapes.keys() - names), ("has the unknown", names - shapes.keys()))
                words = [f"{verb} {_some(found)}" for verb, found in parts if found]
                raise DataError(f"{file.name} {' and '.join(words)}; the base model and {CONFIG} say what it holds")
            for name, wanted in shapes.items():
                part = source.get_slice(name)
                if tuple(part.get_shape()) != wanted:
                    raise DataError(
                        f"{file.name}: {name} has the shape {part.get_shape()}; the base model needs {list(wanted)}"
                    )
                if part.get_dtype() not in _FLOATS:
                    raise DataError(f"{file.name}: {name} is {part.get_dtype()}; read are {', '.join(sorted(_FLOATS))}")
            return {name: source.get_tensor(name) for name in shapes}
    except (OSError, SafetensorError):  # they tell where on this machine the file is
        raise DataError(f"{file.name} is not a readable safetensors file") from None


def _read_optimizer(file: Path, adapter: Weights) -> dict[str, Tensor]:
    """State of AdamW for all of the adapter's parameters, or of none; raises DataError if it does not fit."""
    parameters = {f"trunk.{name}": parameter for name, parameter in adapter.named_parameters()}
    most = sum(parameter.numel() for parameter in parameters.values())
    try:
        with safe_open(file, "pt") as source:
            names = list(source.keys())
            if sum(math.prod(source.get_slice(name).get_shape()) for name in names) > 4 * most + len(parameters):
                raise DataError(f"{file.name} holds far more than the moments of this adapter")
            state = {name: source.get_tensor(name) for name in names}
    except (OSError, SafetensorError):
        raise DataError(f"{file.name} is not a readable safetensors file") from None
    if not state:  # saved before the first step
        return state
    if missing := parameters.keys() - {name.rpartition(":")[0] for name in state}:
        raise DataError(f"{file.name} lacks the state of {_some(missing)}")
    try:
        restore_optimizer(ADAMW, make_optimizer(ADAMW, parameters), parameters, state)
    except ValueError as error:
        raise DataError(f"{file.name}: {error}") from None
    return state


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(name[:200] for name in found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
