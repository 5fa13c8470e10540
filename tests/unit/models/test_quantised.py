"""Quantised folders: those that are de-quantised, against numbers worked out one by one; all others refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from thumbs.errors import ModelError
from thumbs.models.causal_lm import load_decoder
from thumbs.models.quantised import KEYS, REFUSED, Quantisation, dequantise, quantisation
from thumbs.models.weights import read_tensors
from tiny_models import LLAMA, load_reference, save_random

FP8 = torch.float8_e4m3fn
CHANNELS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel", "symmetric": True}}}


def one_by_one(q: Tensor, scale: Tensor, block: tuple[int, int]) -> Tensor:
    """W[i, j] = q[i, j] · s[i // rows, j // columns], number by number."""
    out = torch.empty(q.shape)
    wide = q.float()
    for i in range(q.shape[0]):
        for j in range(q.shape[1]):
            out[i, j] = wide[i, j] * scale[i // block[0], j // block[1]].float()
    return out


SCALES: dict[str, tuple[Quantisation, torch.dtype, str, tuple[int, ...], tuple[int, int]]] = {
    "DeepSeek's blocks": (Quantisation("fp8", (4, 4)), FP8, "weight_scale_inv", (3, 2), (4, 4)),
    "a tensor": (Quantisation("fp8"), torch.float8_e5m2, "weight_scale", (), (99, 99)),
    "rows": (Quantisation("compressed-tensors"), FP8, "weight_scale", (10, 1), (1, 99)),
    "rows without a column": (Quantisation("fbgemm_fp8"), FP8, "weight_scale", (10,), (1, 99)),
    "INT8 rows": (Quantisation("compressed-tensors"), torch.int8, "weight_scale", (10, 1), (1, 99)),
    "groups of a row": (Quantisation("compressed-tensors", (1, 4)), torch.int8, "weight_scale", (10, 2), (1, 4)),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_numbers_are_those_worked_out_one_by_one(case: str):
    how, dtype, name, size, block = SCALES[case]
    torch.manual_seed(0)
    q = (20 * torch.randn(10, 8)).to(dtype)
    scale = (torch.rand(size) + 0.1).to(torch.bfloat16)
    state = {"a.weight": q, f"a.{name}": scale, "a.input_scale": torch.ones(1), "b.weight": torch.ones(2)}
    plain = dequantise(state, how, "x")
    assert plain.keys() == {"a.weight", "b.weight"}
    shown = scale.reshape(1, 1) if not size else scale[:, None] if len(size) == 1 else scale
    assert torch.equal(plain["a.weight"], one_by_one(q, shown, block))


def test_blocks_are_those_of_transformers():
    torch.manual_seed(0)
    q, scale = (50 * torch.randn(256, 128)).to(FP8), torch.rand(2, 1)
    theirs = Fp8Dequantize(None)._dequantize_one(q, scale, torch.float32)
    ours = dequantise({"w": q, "w_scale_inv": scale}, Quantisation("fp8", (128, 128)), "x")["w"]
    assert torch.equal(ours, theirs)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random(LlamaConfig(**{**LLAMA.to_dict(), "architectures": None}), tmp_path_factory.mktemp("base"))


def rewritten(base: Path, folder: Path, change: Callable[[str, Tensor], dict[str, Tensor]], **config: Any) -> Path:
    """The base with its projections stored in another way, and more keys in its config.json."""
    state: dict[str, Tensor] = {}
    for name, tensor in load_file(base / "model.safetensors").items():
        state |= change(name, tensor) if name.endswith("proj.weight") else {name: tensor}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((base / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **config}))
    return folder


def rows(dtype: torch.dtype, most: float) -> Callable[[str, Tensor], dict[str, Tensor]]:
    def change(name: str, weight: Tensor) -> dict[str, Tensor]:
        scale = weight.abs().amax(1, keepdim=True) / most
        whole = weight / scale
        return {name: (whole if dtype.is_floating_point else whole.round()).to(dtype), f"{name}_scale": scale}

    return change


def blocks(name: str, weight: Tensor) -> dict[str, Tensor]:
    scale = torch.stack([torch.stack([b.abs().max() for b in a.split(16, 1)]) for a in weight.split(16)]) / 448
    wide = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)[: weight.shape[0], : weight.shape[1]]
    return {name: (weight / wide).to(FP8), f"{name}_scale_inv": scale}


STORED: dict[str, tuple[Callable[[str, Tensor], dict[str, Tensor]], dict[str, Any]]] = {
    "fp8 blocks": (blocks, {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}),
    "compressed-tensors FP8": (
        rows(FP8, 448),
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": CHANNELS},
    ),
    "compressed-tensors INT8": (
        rows(torch.int8, 127),
        {"quant_method": "compressed-tensors", "format": "int-quantized"},
    ),
    "FBGEMM": (rows(FP8, 448), {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}),
    "ModelOpt": (rows(FP8, 448), {"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}),
}


@pytest.mark.parametrize("case", STORED)
@torch.no_grad()
def test_a_quantised_model_is_the_model_up_to_its_rounding(base: Path, tmp_path: Path, case: str):
    change, settings = STORED[case]
    folder = rewritten(base, tmp_path, change, quantization_config=settings)
    model = load_decoder(folder, torch.float32, master=False)
    tokens = torch.arange(3, 40)
    found = model.logits(model.forward_packed(tokens, [len(tokens)]))
    expected = load_reference(base)(tokens[None]).logits[0]
    assert (found - expected).norm() < 0.2 * expected.norm()
    weight = read_tensors(folder)["model.layers.0.mlp.down_proj.weight"]
    original = load_file(base / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    assert (weight - original).abs().max() <= original.abs().max() / 14  # half a step of 3 bits of mantissa


@pytest.mark.parametrize("method", [*REFUSED, "tomorrow", None])
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str | None):
    settings = {"quant_method": method, "load_in_8bit": True, "bits": 4}
    named = method if method is not None else "bitsandbytes"
    with pytest.raises(ModelError, match=rf"quantised by '{named}'.*name the model that it was made from"):
        quantisation(tmp_path, {"quantization_config": settings})


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "'gptq'"),
        ("quant_config.json", {"w_bit": 4, "zero_point": True}, "'awq'"),
        ("hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "NVFP4"),
    ],
)
def test_settings_in_a_file_of_their_own_are_seen(base: Path, tmp_path: Path, file: str, content: Any, message: str):
    folder = rewritten(base, tmp_path, lambda name, weight: {name: weight})
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=message):
        load_decoder(folder, torch.float32, master=False)


@pytest.mark.parametrize("method", KEYS)
def test_an_unknown_setting_of_a_known_method_is_named(tmp_path: Path, method: str):
    with pytest.raises(ModelError, match="unknown settings brand_new"):
        quantisation(tmp_path, {"quantization_config": {"quant_method": method, "brand_new": 1}})
    groups = {"a": {"weights": {"num_bits": 8, "brand_new": 1}}}
    if "config_groups" in KEYS[method]:
        with pytest.raises(ModelError, match="unknown settings brand_new"):
            quantisation(tmp_path, {"quantization_config": {"quant_method": method, "config_groups": groups}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "the format 'pack-quantized'"),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "transform_config"),
        ({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24"}}, "sparsity"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {"num_bits": 4}}}},
            "weights of 4 bits",
        ),
        ({"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "W4A16_AWQ"),
        ({"quant_method": "fp8", "expert_dtype": "fp4"}, "experts in 'fp4'"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "two positive numbers"),
        ("gptq", "must be an object"),
    ],
)
def test_variants_that_are_not_read_are_named(tmp_path: Path, settings: Any, message: str):
    with pytest.raises(ModelError, match=message):
        quantisation(tmp_path, {"quantization_config": settings})


def test_null_is_absent(tmp_path: Path):
    assert quantisation(tmp_path, {"quantization_config": None}) is None
    assert quantisation(tmp_path, {"text_config": {"quantization_config": {"quant_method": "fp8"}}}) is not None
    off = {"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": False}
    assert quantisation(tmp_path, {"quantization_config": off}) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("w_scale"), "w is int8 and has no scale w_scale"),
        (lambda s: s.update(w_scale=torch.rand(3, 1)), r"w_scale has shape \(3, 1\), which does not divide \(10, 8\)"),
        (lambda s: s.update(w_scale=torch.rand(10, 1, 1)), r"shape \(10, 1, 1\) for a weight of \(10, 8\)"),
        (lambda s: s.update(w_scale=torch.full((10, 1), math.nan)), "is not finite"),
        (lambda s: s.update(w_zero_point=torch.ones(10, 1)), "around a point other than zero"),
    ],
)
def test_a_scale_that_does_not_fit_is_named(change: Callable[[dict], object], message: str):
    state = {"w": torch.ones(10, 8, dtype=torch.int8), "w_scale": torch.rand(10, 1)}
    change(state)
    with pytest.raises(ModelError, match=message):
        dequantise(state, Quantisation("compressed-tensors"), "x")
