"""A PEFT adapter folder as a model: its base with the adapter folded in, as trainers elsewhere leave it."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.tensor_files import write_tensors
from thumbs.models.weights import read_tensors

CONFIG, WEIGHTS, INDEX = "adapter_config.json", "adapter_model.safetensors", "model.safetensors.index.json"


def base_name(folder: Path) -> str:
    """Name of the model that the adapter was trained on."""
    name = read_peft_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder / CONFIG} does not say what its base is (base_model_name_or_path)")
    return name


def merge(folder: Path, base: Path, out: Path) -> None:
    """Writes to `out` the model in the folder `base` with W + s · B A for each adapted weight W, float32.

    s = alpha / r, or alpha / √r for rank-stabilised LoRA (Hu et al. 2021, arXiv:2106.09685, eq. 3;
    Kalajdzievski 2023, arXiv:2312.03732). Raises ModelError for what is no plain LoRA, and for tensors that the base
    does not have.
    """
    state = {name: tensor.float() for name, tensor in read_tensors(base).items()}
    fold(folder, state, str(base))
    _copy_rest(base, folder, out)
    write_tensors(out / "model.safetensors", state)


def fold(folder: Path, state: dict[str, Tensor], base: str) -> None:
    """Adds an adapter to the weights `state` of the model `base` in their place, and puts in what it replaces.

    Raises ModelError for what is no plain LoRA, and for tensors that the base does not have.
    """
    config = read_peft_config(folder)
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("fan_in_fan_out"):
        raise ModelError(f"{folder}: only plain LoRA adapters are read; merge it with PEFT and name the whole model")
    if not (folder / WEIGHTS).is_file():
        raise ModelError(f"{folder} has no {WEIGHTS}; pickled adapters are not read, save it as safetensors")
    adapter = {k.removeprefix("base_model.model."): v.float() for k, v in load_file(folder / WEIGHTS).items()}
    for name, tensor in adapter.items():
        target = re.sub(r"\.lora_[AB](\.default)?\.weight$", ".weight", name)
        if target not in state:
            raise ModelError(f"{folder}: {name} belongs to no weight of {base}; is this the adapter's base?")
        if ".lora_A" in name:
            up = adapter[name.replace(".lora_A", ".lora_B")]
            state[target] += _scale(config, target) * up @ tensor
        elif ".lora_B" not in name:  # a whole weight that was trained beside the adapters (modules_to_save)
            state[target] = tensor


def _scale(config: dict[str, Any], target: str) -> float:
    stem = target.removesuffix(".weight")
    rank = _of_pattern(config.get("rank_pattern"), stem, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern"), stem, config["lora_alpha"])
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _of_pattern(pattern: dict[str, float] | None, stem: str, default: float) -> float:
    """The entry whose key is the name, or its end, as PEFT matches them."""
    return next((v for k, v in (pattern or {}).items() if re.match(rf"(.*\.)?({k})$", stem)), default)


def _copy_rest(base: Path, folder: Path, out: Path) -> None:
    """Config and tokenizer: the adapter folder's own where it has them, else the base's."""
    for source in (base, folder):
        for file in source.iterdir():
            if file.suffix in (".json", ".jinja", ".txt", ".model") and file.name not in (CONFIG, INDEX):
                shutil.copyfile(file, out / file.name)


def read_peft_config(folder: Path) -> dict[str, Any]:
    """What adapter_config.json says; raises ModelError where it cannot be read."""
    try:
        found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CONFIG}: unreadable ({error})") from None
    return found if isinstance(found, dict) else {}
