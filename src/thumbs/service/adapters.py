"""Adapters that no client trained here: uploaded ones and mixtures. They become checkpoints of a run of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from thumbs.clients.backend import ALPHA, ATTENTION, MLP, Backend
from thumbs.config.model import ADAPTED, LoraConfig
from thumbs.engine.checkpoints import MANIFEST, read_tensors, write_checkpoint
from thumbs.engine.local import ADAPTER, OPTIMIZER
from thumbs.errors import CheckpointError, DataError
from thumbs.models.base_identity import public_name
from thumbs.service.requests import Body, explain

CONFIG = "adapter_config.json"
PEFT_FILES = (CONFIG, ADAPTER)
_MOST_CONFIG_BYTES = 1 << 20
_A, _B = ".lora_A.weight", ".lora_B.weight"


class _PeftConfig(Body):
    """What is read of adapter_config.json."""

    base_model_name_or_path: str | None = None
    r: int = Field(ge=1, le=1024)
    lora_alpha: float = Field(gt=0, allow_inf_nan=False)
    target_modules: tuple[str, ...]
    bias: str = "none"
    use_dora: bool = False
    use_rslora: bool = False
    modules_to_save: tuple[str, ...] | None = None
    layers_to_transform: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Adapter:
    """Tensors under PEFT's names, scaled to the alpha that every adapter here has."""

    base: str
    """The base model as the file names it; empty where it names none."""
    rank: int
    targets: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    """State of the optimizer, where the folder came from here."""


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder of PEFT's layout; raises DataError where it cannot be used here."""
    if missing := [name for name in PEFT_FILES if not (folder / name).is_file()]:
        raise DataError(f"there is no {' and no '.join(missing)}; needed is an adapter in PEFT's layout")
    config = _read_config(folder / CONFIG)
    tensors = _read(folder / ADAPTER)
    if wrong := [name for name in tensors if not name.endswith((_A, _B))]:
        raise DataError(f"{ADAPTER} holds {wrong[0]!r}; only the weights of LoRA adapters are read")
    scale = config.lora_alpha / ALPHA
    scaled = {name: tensor.float() * (scale if name.endswith(_B) else 1.0) for name, tensor in tensors.items()}
    state = _read(folder / OPTIMIZER) if (folder / OPTIMIZER).is_file() else {}
    targets = tuple(name for name in ADAPTED if name in config.target_modules)
    return Adapter(config.base_model_name_or_path or "", config.r, targets, scaled, state)


def mix(adapters: Sequence[Adapter], coefficients: Sequence[float]) -> Adapter:
    """The adapter whose change of the weights is Σ c · change, exactly: its rank is the sum of theirs.

    With A below each other and B beside each other, B A is the sum of the products; c · total rank / rank gives each
    product its scale back. Raises DataError where the adapters do not adapt the same layers.
    """
    first = adapters[0]
    if any(each.tensors.keys() != first.tensors.keys() for each in adapters):
        raise DataError("the checkpoints do not adapt the same layers, so they cannot be mixed")
    rank = sum(each.rank for each in adapters)
    tensors = {}
    for name in first.tensors:
        if name.endswith(_A):
            tensors[name] = torch.cat([each.tensors[name] for each in adapters], 0)
        else:
            scaled = [c * rank / each.rank * each.tensors[name] for c, each in zip(coefficients, adapters, strict=True)]
            tensors[name] = torch.cat(scaled, 1)
    return Adapter(first.base, rank, first.targets, tensors)


def keep(backend: Backend, owner: str, base_model: str, adapter: Adapter, kind: str, name: str) -> str:
    """Makes the adapter a checkpoint of a new run on `base_model`; returns its path."""
    store, targets = backend.store, set(adapter.targets)
    lora = LoraConfig(rank=adapter.rank, alpha=ALPHA, targets=adapter.targets)
    model = backend.bases[base_model].config.model_copy(update={"lora": lora})
    session_id = store.add_session(owner, tags=("adapter",))
    run_id = f"{session_id}:train:0"
    store.add_run(
        run_id,
        session_id,
        owner,
        base_model,
        rank=adapter.rank,
        seed=None,
        train_unembed=False,
        train_mlp=targets >= set(MLP),
        train_attn=targets >= set(ATTENTION),
    )
    # Written anew, whatever came with the adapter: the manifest says what is loaded, and a stranger must not.
    files = {
        MANIFEST: {"model": model.model_dump(mode="json"), "heads": ["lm"], "seed": 0, "steps": 0},
        CONFIG: _peft_config(public_name(model.name), lora),
    }
    tensors = {ADAPTER: dict(adapter.tensors)} | ({OPTIMIZER: dict(adapter.optimizer)} if adapter.optimizer else {})
    with store.writing(run_id, kind, name) as folder:
        write_checkpoint(folder, tensors, files)
    store.finish_session(session_id, "success")
    return f"tinker://{run_id}/{kind}/{name}"


def _read_config(file: Path) -> _PeftConfig:
    with file.open("rb") as source:
        raw = source.read(_MOST_CONFIG_BYTES)  # a longer one is cut and so no JSON
    try:
        config = _PeftConfig.model_validate_json(raw)
    except ValidationError as error:
        raise DataError(f"{CONFIG}: {explain(error)}") from None
    unknown = sorted(set(config.target_modules) - set(ADAPTED))
    if unknown or not config.target_modules:
        raise DataError(f"{CONFIG}: target_modules names {unknown}; allowed are {', '.join(ADAPTED)}")
    variants = {"use_dora": config.use_dora, "use_rslora": config.use_rslora, "bias": config.bias != "none"}
    variants |= {"modules_to_save": config.modules_to_save, "layers_to_transform": config.layers_to_transform}
    if found := [name for name, value in variants.items() if value]:
        raise DataError(f"{CONFIG} sets {', '.join(found)}; plain LoRA on all layers is what is served")
    return config


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(file)
    except CheckpointError:  # it tells where on this machine the file is
        raise DataError(f"{file.name} is no readable safetensors file") from None


def _peft_config(base: str | None, lora: LoraConfig) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "target_modules": list(lora.targets),
        "bias": "none",
        "inference_mode": True,
    }
