"""Which files of a model folder hold its weights; `transformers` decides in the same way."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Set
from pathlib import Path
from typing import Any

from thumbs.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

COMPANIONS = ("adapter_model.safetensors", "scalar_head.safetensors", "optimizer.safetensors")
"""Files of ours that may lie next to a model's weights and are not part of them."""

SCORED_AT = "thumbs_reward.json"
"""Next to a classifier of ours: {"scored_at": "end_token"}, for templates that write something after the last turn."""

log = logging.getLogger(__name__)


def weight_files(folder: Path) -> dict[Path, list[str] | None]:
    """Files that hold the weights → the tensors that are read from each; None: all of them.

    `model.safetensors` comes before `model.safetensors.index.json`, whose weight_map says where each tensor is. Any
    other safetensors file is not read, and the log names it. Raises ModelError when there is neither, when the index is
    damaged, or when it names a file that is missing or outside of the folder.
    """
    if (folder / SINGLE).is_file():
        files: dict[Path, list[str] | None] = {folder / SINGLE: None}
    elif (folder / INDEX).is_file():
        files = dict(_indexed(folder))
    else:
        there = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))) or "no safetensors file"
        raise ModelError(
            f"{folder} has no {SINGLE} and no {INDEX}, but {there}; save the model with save_pretrained of "
            "transformers. Pickled weights may hold code and are not read"
        )
    others = sorted(f.name for f in folder.glob("*.safetensors") if f not in files and f.name not in COMPANIONS)
    if others:
        log.warning(
            "%s: %s is not read; the weights are in %s", folder, ", ".join(others), some(file.name for file in files)
        )
    return files


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; raises ModelError, which names it, when there is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: unreadable ({error})") from None
    if not isinstance(value, dict):
        raise ModelError(f"{file} must hold a JSON object, not {type(value).__name__}")
    return value


def _indexed(folder: Path) -> dict[Path, list[str]]:
    weight_map = read_json_object(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{folder / INDEX} has no weight_map from tensors to files; save the model again")
    names: dict[str, list[str]] = defaultdict(list)
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
            raise ModelError(f"{folder / INDEX}: {tensor} is in {name!r}; only files of the folder itself are read")
        names[name].append(tensor)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise ModelError(f"{folder}: {some(missing)} is missing, which {INDEX} names; fetch or save the model again")
    if wrong := [name for name in names if not name.endswith(".safetensors")]:
        raise ModelError(f"{folder / INDEX} names {some(wrong)}; only safetensors files are read")
    return {folder / name: tensors for name, tensors in names.items()}


def some(names: Iterable[str]) -> str:
    """The first of the names, by the alphabet if they are a set, and how many more there are."""
    first, *more = sorted(names) if isinstance(names, Set) else names
    return repr(first) + (f" and {len(more)} more" if more else "")
