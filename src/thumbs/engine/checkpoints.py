"""Checkpoints: a folder that is either complete or not there, read without running anything in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.errors import CheckpointError
from thumbs.models.slices import SlicedTensors
from thumbs.models.tensor_files import write_tensors
from thumbs.tracking.files import sync

MANIFEST = "thumbs.json"
ADAPTER, MODEL, HEAD, OPTIMIZER = (
    "adapter_model.safetensors",
    "model.safetensors",
    "scalar_head.safetensors",
    "optimizer.safetensors",
)
SHARDS = "optimizer.dcp"
"""Folder of moments that each rank of a sharded model wrote for itself, as torch's distributed checkpoints (DCP)."""

MEND = "restore it, or start the run over with --fresh"


def write_checkpoint(path: Path, tensors: dict[str, dict[str, Tensor]], files: dict[str, Any]) -> None:
    """Writes `tensors` (file name → tensors) and `files` (file name → JSON) to a new folder, then moves it into place.

    Every tensor file is read back and compared. Otherwise as `renewing`.
    """
    with renewing(path) as folder:
        fill(folder, tensors, files)


def fill(folder: Path, tensors: dict[str, dict[str, Tensor]], files: dict[str, Any]) -> None:
    """Writes tensor files, which are read back and compared, and JSON files."""
    for name, content in tensors.items():
        write_tensors(folder / name, content)
        _compare(load_file(folder / name), content, folder / name)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


@contextmanager
def renewing(path: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of the one at `path` when the block ends well.

    A crash at any moment leaves the old folder, the new one, or the old one under `<name>.old`, which reading finds.
    Raises CheckpointError, with the old folder untouched, on a full disk.
    """
    temporary, old = new_name(path), path.with_name(path.name + ".old")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with explaining(path):
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                sync(file)
    except CheckpointError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    temporary.rename(path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def new_name(path: Path) -> Path:
    """The folder that is being filled to take the place of `path`."""
    return path.with_name(path.name + ".new")


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """An error of the disk becomes a CheckpointError about the checkpoint that was to be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        free = shutil.disk_usage(path.parent).free / 2**30
        raise CheckpointError(
            f"could not write {path}: {error} ({free:.1f} GiB free); the previous checkpoint is untouched"
        ) from error


def exists(path: Path) -> bool:
    """Whether a complete checkpoint is at `path`; finishes a move that a crash interrupted."""
    old = path.with_name(path.name + ".old")
    if not path.exists() and old.exists():
        with suppress(FileNotFoundError):  # another rank that reads it has been faster
            old.rename(path)
    return (path / MANIFEST).exists()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint; raises CheckpointError when there is none or it is damaged."""
    if not exists(path):
        raise CheckpointError(f"no checkpoint at {path}; run the stage that writes it first")
    try:
        return json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / MANIFEST} is unreadable: {error}; {MEND}") from None


def lora_of(path: Path) -> AdapterConfig | None:
    """What a checkpoint's adapter is, None for a whole model."""
    with naming(path):
        return ModelConfig.model_validate(read_manifest(path)["model"]).lora


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors of one safetensors file; raises CheckpointError when it is missing or damaged."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is unreadable: {error}; {MEND}") from None


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Whatever is wrong with what a checkpoint holds becomes a CheckpointError that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} does not hold this model ({type(error).__name__}: {error}); {MEND}") from error


def read_moments(path: Path) -> dict[str, Tensor] | None:
    """What an optimizer remembered when the checkpoint was written, as `name:key`; None if that was not kept.

    Raises CheckpointError if it is damaged.
    """
    if (path / OPTIMIZER).exists():
        return read_tensors(path / OPTIMIZER)
    sliced = sliced_moments(path)
    return None if sliced is None else {name: sliced.rows(name) for name in sliced.shapes}


def sliced_moments(path: Path) -> SlicedTensors | None:
    """The same, to be read by rows."""
    files = [path / OPTIMIZER] if (path / OPTIMIZER).exists() else sorted((path / SHARDS).glob("*.safetensors"))
    with naming(path):
        return SlicedTensors(dict.fromkeys(files)) if files else None


def _compare(written: dict[str, Tensor], meant: dict[str, Tensor], file: Path) -> None:
    wrong = [k for k, v in meant.items() if k not in written or not torch.equal(written[k], v.detach().cpu())]
    if wrong or len(written) != len(meant):
        raise CheckpointError(f"{file}: read back differently from what was written ({wrong[:3]}); is the disk sound?")
