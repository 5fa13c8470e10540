"""Quantised checkpoints: those whose weights are a small number times a scale are de-quantised, all others refused.

W = q · s, with one scale for a tensor, a row, a group of a row or a block, exact in float32: FP8 as DeepSeek and Qwen
publish it (arXiv:2412.19437, section 3.3), compressed-tensors' FP8 and INT8, FBGEMM's and ModelOpt's FP8. Scales of
activations and of a quantised cache have no effect, because both stay in the precision of the computation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.errors import ModelError
from thumbs.models.checkpoint_files import read_json_object

log = logging.getLogger(__name__)

KEYS = {
    "fp8": {"activation_scheme", "weight_block_size", "fmt", "scale_fmt", "modules_to_convert", "expert_dtype"},
    "fbgemm_fp8": {"activation_scale_ub"},
    "compressed-tensors": {
        "config_groups", "format", "kv_cache_scheme", "quantization_status", "global_compression_ratio",
        "sparsity_config", "transform_config", "version", "run_compressed",
    },
    "modelopt": {"quant_algo", "kv_cache_quant_algo", "producer", "config_groups"},
}  # fmt: skip
"""Methods that are de-quantised, and the keys of their settings that are understood, next to `_EVERYWHERE`."""

REFUSED = (
    "aqlm", "auto-round", "awq", "bitnet", "bitsandbytes", "eetq", "fouroversix", "fp_quant", "gptq", "higgs", "hqq",
    "mxfp4", "mxfp8", "nvfp4", "quanto", "quark", "sinq", "spqr", "torchao", "vptq",
)  # fmt: skip
"""Methods that are known by name and refused; an unknown method is refused as well."""

_GROUP_KEYS = {"targets", "weights", "input_activations", "output_activations", "format"}
_SCHEME_KEYS = {
    "num_bits", "type", "symmetric", "group_size", "strategy", "block_structure", "dynamic", "actorder", "observer",
    "observer_kwargs", "scale_dtype", "zp_dtype",
}  # fmt: skip
_EVERYWHERE = {"quant_method", "modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "dequantize"}
_FORMATS = (None, "float-quantized", "int-quantized", "naive-quantized", "dense")
_ALGORITHMS = (None, "FP8", "FP8_PER_CHANNEL_PER_TOKEN")
_SEPARATE = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
_QUANTISED = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
_PLAIN = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_UNUSED = re.compile(r"\.(input_scale|input_scale_ub|activation_scale|output_scale|[qkv]_scale|kv_scale)$")
_WAY_OUT = (
    "name the model that it was made from, or save it without quantisation: "
    "AutoModelForCausalLM.from_pretrained(…).dequantize().save_pretrained(…) of transformers"
)


@dataclass(frozen=True)
class Quantisation:
    """How weights are stored. block: rows and columns that share a scale; None: as the scale's shape says."""

    method: str
    block: tuple[int, int] | None = None


def quantisation(folder: Path, config: Mapping[str, Any]) -> Quantisation | None:
    """How the weights of a folder with this config.json are quantised; None if they are not.

    Raises ModelError, which names the method, for one that is not read here, and for settings that are not understood.
    """
    source, settings = _settings(folder, config)
    if not settings:
        return None
    method = settings.get("quant_method")
    if method is None and {"load_in_4bit", "load_in_8bit"} & settings.keys():
        method = "bitsandbytes"
    if method == "bitsandbytes" and not (settings.get("load_in_4bit") or settings.get("load_in_8bit")):
        return None
    if method not in KEYS:
        known = "" if method in REFUSED else ", a method that is not known here"
        raise ModelError(f"{source}: the weights are quantised by {method!r}{known}; {_WAY_OUT}")
    if unknown := _unknown(method, settings):
        raise ModelError(f"{source}: quantisation by {method!r} with unknown settings {', '.join(unknown)}; {_WAY_OUT}")
    if reason := _reason(method, settings):
        raise ModelError(f"{source}: the weights are quantised by {method!r} with {reason}; {_WAY_OUT}")
    log.info("%s: the weights are quantised by %s; they are de-quantised", source, method)
    block = _block(settings)
    # As transformers reads such a config: a block size that is not given is 128, null means one scale for a tensor.
    if method == "fp8" and "weight_block_size" not in settings:
        block = (128, 128)
    return Quantisation(method, block)


def dequantise(state: dict[str, Tensor], how: Quantisation, source: str) -> dict[str, Tensor]:
    """The weights of `state` in float32 where they were quantised, else as they are; the scales are left out.

    Raises ModelError, which names the tensor, for a quantised weight without its scale and a scale that does not fit.
    """
    taken, plain = set(), {}
    for name, tensor in state.items():
        if tensor.dtype in _QUANTISED:
            scale = next((s for s in (f"{name}_scale_inv", f"{name}_scale") if s in state), None)
            if scale is None:
                raise ModelError(f"{source}: {name} is {_name(tensor)} and has no scale {name}_scale; save it again")
            taken |= {scale, f"{name}_zero_point"}
            if (zero := state.get(f"{name}_zero_point")) is not None and zero.float().any():
                raise ModelError(f"{source}: {name} is quantised around a point other than zero; {_WAY_OUT}")
            plain[name] = tensor.float() * _expanded(state[scale], tensor.shape, how.block, f"{source}: {scale}")
        elif not _UNUSED.search(name):
            plain[name] = tensor
    return {name: tensor for name, tensor in plain.items() if name not in taken}


def check_plain(state: Mapping[str, Tensor], source: str) -> None:
    """Raises ModelError, which names the tensor, unless all are floating-point numbers of 16 bits or more."""
    for name, tensor in state.items():
        if tensor.dtype not in _PLAIN:
            raise ModelError(
                f"{source}: {name} is {_name(tensor)}, and no quantization_config says what that means; {_WAY_OUT}"
            )


def _settings(folder: Path, config: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]]:
    """The file that says how the weights are quantised, and what it says; empty where none does."""
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for key in ("quantization_config", "compression_config"):
            if isinstance(settings := part.get(key), Mapping) and settings:
                return folder / "config.json", _with_method(settings, key)
            if settings:
                raise ModelError(f"{folder / 'config.json'}: {key} must be an object, not {settings!r}")
    for name, method in _SEPARATE.items():
        if (folder / name).is_file():
            found = read_json_object(folder / name)
            nested = found.pop("quantization", None)
            return folder / name, {"quant_method": method, **found, **(nested if isinstance(nested, dict) else {})}
    return folder, {}


def _with_method(settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return {"quant_method": "compressed-tensors", **settings} if key == "compression_config" else settings


def _reason(method: str, settings: Mapping[str, Any]) -> str | None:
    """What in the settings of a known method is not read; None: nothing."""
    if settings.get("quant_algo") not in _ALGORITHMS:
        return f"quant_algo {settings['quant_algo']!r}"
    if settings.get("format") not in _FORMATS:
        return f"the format {settings['format']!r}"
    if settings.get("expert_dtype") not in (None, "fp8"):
        return f"experts in {settings['expert_dtype']!r}"
    if settings.get("transform_config"):
        return "a transform_config (rotated weights)"
    sparsity = settings.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        return f"sparsity of the format {sparsity['format']!r}"
    for scheme in _weight_schemes(settings):
        if scheme.get("num_bits", 8) != 8:
            return f"weights of {scheme['num_bits']} bits"
        if scheme.get("actorder"):
            return f"actorder {scheme['actorder']!r}"
    return None


def _unknown(method: str, settings: Mapping[str, Any]) -> list[str]:
    """Keys that are set and not understood, those of groups and their schemes included."""
    groups = _groups(settings)
    parts = [(settings, KEYS[method] | _EVERYWHERE), *((group, _GROUP_KEYS) for group in groups)]
    parts += [(scheme, _SCHEME_KEYS) for scheme in _weight_schemes(settings)]
    return sorted({k for part, known in parts for k, v in part.items() if v is not None and k not in known})


def _groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = settings.get("config_groups")
    found = list(groups.values()) if isinstance(groups, Mapping) else groups or []
    return [group for group in found if isinstance(group, Mapping)]


def _weight_schemes(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    weights = [group.get("weights") for group in _groups(settings)]
    return [scheme for scheme in weights if isinstance(scheme, Mapping)]


def _block(settings: Mapping[str, Any]) -> tuple[int, int] | None:
    block = settings.get("weight_block_size")
    for scheme in _weight_schemes(settings):
        size = scheme.get("group_size")
        block = block or scheme.get("block_structure") or ([1, size] if isinstance(size, int) and size > 0 else None)
    if isinstance(block, str):
        block = [int(part) for part in block.split("x")] if re.fullmatch(r"\d+x\d+", block) else block
    if block is None:
        return None
    if not isinstance(block, list | tuple) or len(block) != 2 or not all(isinstance(b, int) and b > 0 for b in block):
        raise ModelError(f"the weights are quantised in blocks of {block!r}; two positive numbers are needed")
    return block[0], block[1]


def _expanded(scale: Tensor, shape: torch.Size, block: tuple[int, int] | None, source: str) -> Tensor:
    """A scale for each number of a weight of `shape` (or one that broadcasts over a whole dimension), float32."""
    wide = scale.float()
    if wide.numel() == 1:
        return wide.reshape(())
    if wide.ndim == 1 and len(shape) == 2:
        wide = wide[:, None]
    sizes = (*[None] * (len(shape) - 2), *(block or (None, None)))
    if wide.ndim != len(shape) or not torch.isfinite(wide).all():
        raise ModelError(f"{source} has shape {tuple(scale.shape)} for a weight of {tuple(shape)}, or is not finite")
    for dim, (got, length, size) in enumerate(zip(wide.shape, shape, sizes, strict=True)):
        if got in (1, length):
            continue
        share = length // got if size is None else size
        if -(-length // share) != got or (size is None and length % got):
            raise ModelError(f"{source} has shape {tuple(scale.shape)}, which does not divide {tuple(shape)}")
        wide = wide.repeat_interleave(share, dim).narrow(dim, 0, length)
    return wide


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
