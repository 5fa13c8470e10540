"""Adapters from elsewhere: uploads and mixtures, against the dense change of the weights that they stand for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_backend import MODEL
from safetensors.torch import load_file, save
from service_caller import Caller

from thumbs.config.model import AdapterConfig, ModelConfig
from thumbs.errors import DataError
from thumbs.models.byte_lm import byte_shape
from thumbs.models.lora import Lora
from thumbs.models.trunk import empty_trunk
from thumbs.service.adapters import PeftAdapter, mix, read_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
CONFIG: dict[str, Any] = {
    "base_model_name_or_path": MODEL,
    "r": 2,
    "lora_alpha": 8,
    "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"],
}
SHAPE = byte_shape("byte-tiny")
TRUNK = empty_trunk(ModelConfig(name="byte-tiny"))


def _tensors(rank: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """As PEFT writes them for a model of byte-tiny's widths: 64 everywhere in the attention."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for layer in range(SHAPE.layers):
        for name in ATTENTION:
            out = SHAPE.kv_heads * SHAPE.head_dim if name in ("k_proj", "v_proj") else SHAPE.width
            stem = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            found[f"{stem}.lora_A.weight"] = torch.randn((rank, SHAPE.width), generator=generator)
            found[f"{stem}.lora_B.weight"] = torch.randn((out, rank), generator=generator)
    return found


def _change(tensors: Any, alpha: float) -> torch.Tensor:
    """alpha / r · B A, as LoRA defines it."""
    down, up = tensors[f"{LAYER}.lora_A.weight"], tensors[f"{LAYER}.lora_B.weight"]
    return alpha / down.shape[0] * up @ down


def _folder(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    return folder


def test_another_alpha_is_put_into_the_weights(tmp_path: Path) -> None:
    adapter = read_adapter(_folder(tmp_path, _tensors(2)), TRUNK)
    torch.testing.assert_close(_change(adapter.tensors, 32.0), _change(_tensors(2), 8.0))
    assert adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_a_mixture_changes_the_weights_by_the_weighted_sum() -> None:
    parts = [PeftAdapter("m", rank, ("q_proj",), _tensors(rank, seed)) for seed, rank in enumerate((2, 3, 1))]
    coefficients = [0.5, -1.25, 2.0]
    mixed = mix(parts, coefficients)
    expected = sum(c * _change(part.tensors, 32.0) for c, part in zip(coefficients, parts, strict=True))
    torch.testing.assert_close(_change(mixed.tensors, 32.0), expected, atol=1e-3, rtol=1e-4)
    assert mixed.rank == 6


def test_adapters_of_different_layers_do_not_mix() -> None:
    other = {name.replace("layers.0", "layers.1"): tensor for name, tensor in _tensors(2).items()}
    with pytest.raises(DataError, match="same layers"):
        mix([PeftAdapter("m", 2, ("q_proj",), _tensors(2)), PeftAdapter("m", 2, ("q_proj",), other)], [1.0, 1.0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 0}, "r:"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"target_modules": []}, "target_modules"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
    ],
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_adapter(_folder(tmp_path, _tensors(2), **changes), TRUNK)


def test_tensors_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="embed_tokens"):
        read_adapter(_folder(tmp_path, {**_tensors(2), "embed_tokens.weight": torch.zeros(1)}), TRUNK)


B = f"{LAYER}.lora_B.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {**t, B: torch.ones(1, 1)}, f"{B} has the shape \\[1, 1\\]"),
        (lambda t: {k: torch.ones(1, 1) for k in t}, "shape"),
        (lambda t: {**t, B: t[B].T.contiguous()}, "shape"),
        (lambda t: {**t, B: t[B][:-1].contiguous()}, "shape"),
        (lambda t: {**t, B: t[B][None].clone()}, "shape"),
        (lambda t: {**t, B: torch.full_like(t[B], float("nan"))}, f"{B} holds NaN"),
        (lambda t: {**t, B: torch.full_like(t[B], -float("inf"))}, f"{B} holds NaN"),
        (lambda t: {**t, B: t[B].double() * 1e300}, f"{B} holds NaN"),
        (lambda t: {**t, B: t[B].to(torch.int8)}, f"{B} is I8"),
        (lambda t: {**t, B: t[B].to(torch.float8_e4m3fn)}, f"{B} is F8_E4M3"),
        (lambda t: {k: v for k, v in t.items() if k != B}, f"lacks {B}"),
        (lambda t: {**t, B.replace("layers.0", "layers.9"): t[B].clone()}, "unknown .*layers.9"),
        (lambda t: {**t, B.replace("q_proj", "up_proj"): t[B].clone()}, "unknown .*up_proj"),
        (lambda t: {**t, B.replace("weight", "bias"): t[B].clone()}, "unknown .*bias"),
        (lambda t: {}, "lacks"),
    ],
)
def test_weights_that_do_not_fit_the_base_are_refused(tmp_path: Path, change: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        read_adapter(_folder(tmp_path, change(_tensors(2))), TRUNK)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_other_widths_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    given = {name: tensor.to(dtype) for name, tensor in _tensors(2).items()}
    found = read_adapter(_folder(tmp_path, given, lora_alpha=32), TRUNK).tensors
    assert all(torch.equal(found[name], given[name].float()) for name in given)


def _moments(change: Any = lambda state: state) -> dict[str, torch.Tensor]:
    """AdamW's state of such an adapter, as the engine writes it."""
    adapter = Lora(SHAPE, AdapterConfig(rank=2, targets=ATTENTION), 0)
    state = {}
    for name, parameter in adapter.named_parameters():
        state[f"trunk.{name}:step"] = torch.tensor(3.0)
        state[f"trunk.{name}:exp_avg"] = torch.ones_like(parameter).detach()
        state[f"trunk.{name}:exp_avg_sq"] = torch.ones_like(parameter).detach()
    return change(state)


M = "trunk.up_maps.0_qkv_q_proj"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {**s, f"{M}:exp_avg": torch.zeros(3)}, f"{M}:exp_avg has the shape"),
        (lambda s: {**s, f"{M}:exp_avg_sq": s[f"{M}:exp_avg_sq"][:-1]}, f"{M}:exp_avg_sq has the shape"),
        (lambda s: {**s, f"{M}:exp_avg": torch.zeros(10**7)}, "far more than"),
        (lambda s: {k: v for k, v in s.items() if k != f"{M}:step"}, f"{M} lacks .*step"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith(M)}, f"lacks the state of {M}"),
        (lambda s: {**s, f"{M}:max_exp_avg_sq": torch.ones(1)}, "max_exp_avg_sq"),
        (lambda s: {**s, "trunk.no.such:exp_avg": torch.ones(1)}, "trunk.no.such"),
        (lambda s: {**s, f"{M}:step": torch.tensor(float("nan"))}, "NaN"),
        (lambda s: {**s, f"{M}:step": torch.tensor(-1.0)}, "negative"),
        (lambda s: {**s, f"{M}:exp_avg_sq": -s[f"{M}:exp_avg_sq"]}, "negative"),
    ],
)
def test_optimizer_state_that_does_not_fit_is_refused(tmp_path: Path, change: Any, words: str) -> None:
    folder = _folder(tmp_path, _tensors(2), lora_alpha=32)
    (folder / "optimizer.safetensors").write_bytes(save(_moments(change)))
    with pytest.raises(DataError, match=words) as refused:
        read_adapter(folder, TRUNK)
    assert "optimizer.safetensors" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_optimizer_state_that_fits_is_read_and_belongs_to_its_alpha(tmp_path: Path) -> None:
    folder = _folder(tmp_path, _tensors(2), lora_alpha=32)
    (folder / "optimizer.safetensors").write_bytes(save(_moments()))
    assert read_adapter(folder, TRUNK).optimizer.keys() == _moments().keys()
    with pytest.raises(DataError, match="lora_alpha 32"):
        read_adapter(_folder(tmp_path, _tensors(2), lora_alpha=16), TRUNK)


@pytest.mark.parametrize(
    "key",
    ["use_rslora", "rank_pattern", "fan_in_fan_out", "layers_pattern", "trainable_token_indices", "a_key_of_tomorrow"],
)
def test_a_key_of_peft_that_is_not_served_is_named_unless_it_says_nothing(tmp_path: Path, key: str) -> None:
    for empty in (None, False, {}, [], ""):
        read_adapter(_folder(tmp_path, _tensors(2), **{key: empty}), TRUNK)
    with pytest.raises(DataError, match=key):
        read_adapter(_folder(tmp_path, _tensors(2), **{key: {"q_proj": 4}}), TRUNK)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"layers_to_transform": 0}, "layers_to_transform"),
        ({"peft_type": "LOHA"}, "peft_type"),
        ({"bias": "all"}, "bias"),
        ({"lora_alpha": 1e300}, "NaN or infinite"),
        ({"target_modules": "all-linear"}, "target_modules"),
        ({"r": 10**9}, "r:"),
    ],
)
def test_values_that_are_not_served_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_adapter(_folder(tmp_path, _tensors(2), **changes), TRUNK)


def test_all_layers_by_name_are_all_layers(tmp_path: Path) -> None:
    read_adapter(_folder(tmp_path, _tensors(2), layers_to_transform=[*range(SHAPE.layers)]), TRUNK)


def test_a_mixture_has_a_bounded_rank_and_finite_numbers() -> None:
    parts = [PeftAdapter("m", 512, ("q_proj",), _tensors(2)), PeftAdapter("m", 512, ("q_proj",), _tensors(2))]
    assert mix(parts, [1.0, 1.0]).rank == 1024
    with pytest.raises(DataError, match="1025"):
        mix([parts[0], PeftAdapter("m", 513, ("q_proj",), _tensors(2))], [1.0, 1.0])
    with pytest.raises(DataError, match="infinite"):
        mix(parts, [1e39, 1.0])


def _packed(folder: Path, *more: str) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name in ("adapter_config.json", "adapter_model.safetensors", *more):
            archive.add(folder / name, f"checkpoint/{name}")
    return target.getvalue()


def test_an_upload_becomes_a_checkpoint_with_a_manifest_of_ours(caller: Caller, tmp_path: Path) -> None:
    folder = _folder(tmp_path, _tensors(2))
    (folder / "thumbs.json").write_text('{"model": {"name": "/somewhere/else"}}')
    data = _packed(folder, "thumbs.json")
    answer = caller.request("POST", "/api/v1/checkpoints/upload", files={"file": ("a.tar.gz", data)}).json()
    path = answer["path"]
    assert answer["ignored_files"] == ["thumbs.json"]
    info = caller.post("weights_info", {"tinker_path": path}).json()
    assert (info["base_model"], info["lora_rank"]) == (MODEL, 2)
    assert (info["train_attn"], info["train_mlp"], info["train_unembed"]) == (True, False, False)
    record = caller.backend.store.checkpoints.get(path)
    assert record is not None
    manifest = json.loads((record.folder / "thumbs.json").read_text())
    assert manifest["model"]["name"] == MODEL
    kept = load_file(record.folder / "adapter_model.safetensors")
    torch.testing.assert_close(_change(kept, 32.0), _change(_tensors(2), 8.0))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("adapter_config.json", b"{", "adapter_config.json"),
        ("adapter_config.json", b"{" * (1 << 21), "adapter_config.json"),
        ("adapter_model.safetensors", b"no tensors", "adapter_model.safetensors"),
    ],
)
def test_a_bad_upload_leaves_nothing(caller: Caller, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    folder = _folder(tmp_path, _tensors(2))
    (folder / name).write_bytes(content)
    refused = caller.request("POST", "/api/v1/checkpoints/upload", files={"file": ("a.tar.gz", _packed(folder))})
    assert refused.status_code == 400
    assert words in refused.json()["detail"]
    assert "/" not in refused.json()["detail"]
    assert caller.request("GET", "/api/v1/checkpoints").json()["checkpoints"] == []
    assert caller.request("POST", "/api/v1/checkpoints/upload", data={"file": "text"}).status_code == 400


def test_interpolation(caller: Caller, tmp_path: Path) -> None:
    data = _packed(_folder(tmp_path, _tensors(2)))
    sent = {"files": {"file": ("a.tar.gz", data)}}
    paths = [caller.request("POST", "/api/v1/checkpoints/upload", **sent).json()["path"] for _ in range(2)]
    body = {"source_paths": paths, "coefficients": [0.5, 1.0], "output_path": "mint://x/sampler_weights/mixed"}
    answer = caller.result(caller.post("mint/checkpoints/interpolate", body)).json()
    assert answer["coefficients"] == [0.5, 1.0]
    assert answer["path"].endswith("/sampler_weights/mixed")
    record = caller.backend.store.checkpoints.get(answer["path"])
    assert record is not None
    kept = load_file(record.folder / "adapter_model.safetensors")
    torch.testing.assert_close(_change(kept, 32.0), 1.5 * _change(_tensors(2), 8.0))


def test_interpolation_of_what_is_not_there(caller: Caller) -> None:
    for body in (
        {"source_paths": ["tinker://a/weights/b"], "coefficients": [1.0]},
        {"source_paths": ["tinker://a/weights/b"], "coefficients": []},
    ):
        assert caller.result(caller.post("mint/checkpoints/interpolate", body)).json()["category"] == "user"
