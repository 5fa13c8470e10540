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

from thumbs.errors import DataError
from thumbs.service.adapters import Adapter, mix, read_adapter

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "base_model_name_or_path": MODEL,
    "r": 2,
    "lora_alpha": 8,
    "target_modules": ["k_proj", "o_proj", "q_proj", "v_proj"],
}


def _tensors(rank: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {f"{LAYER}.lora_A.weight": (rank, 5), f"{LAYER}.lora_B.weight": (3, rank)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _change(tensors: Any, alpha: float) -> torch.Tensor:
    """alpha / r · B A, as LoRA defines it."""
    down, up = tensors[f"{LAYER}.lora_A.weight"], tensors[f"{LAYER}.lora_B.weight"]
    return alpha / down.shape[0] * up @ down


def _folder(folder: Path, tensors: dict[str, torch.Tensor], **config: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "adapter_model.safetensors").write_bytes(save(tensors))
    return folder


def test_another_alpha_is_put_into_the_weights(tmp_path: Path) -> None:
    adapter = read_adapter(_folder(tmp_path, _tensors(2)))
    torch.testing.assert_close(_change(adapter.tensors, 32.0), _change(_tensors(2), 8.0))
    assert adapter.targets == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_a_mixture_changes_the_weights_by_the_weighted_sum() -> None:
    parts = [Adapter("m", rank, ("q_proj",), _tensors(rank, seed)) for seed, rank in enumerate((2, 3, 1))]
    coefficients = [0.5, -1.25, 2.0]
    mixed = mix(parts, coefficients)
    expected = sum(c * _change(part.tensors, 32.0) for c, part in zip(coefficients, parts, strict=True))
    torch.testing.assert_close(_change(mixed.tensors, 32.0), expected)
    assert mixed.rank == 6


def test_adapters_of_different_layers_do_not_mix() -> None:
    other = {name.replace("layers.0", "layers.1"): tensor for name, tensor in _tensors(2).items()}
    with pytest.raises(DataError, match="same layers"):
        mix([Adapter("m", 2, ("q_proj",), _tensors(2)), Adapter("m", 2, ("q_proj",), other)], [1.0, 1.0])


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
        read_adapter(_folder(tmp_path, _tensors(2), **changes))


def test_tensors_of_other_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="embed_tokens"):
        read_adapter(_folder(tmp_path, {**_tensors(2), "embed_tokens.weight": torch.zeros(1)}))


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
    path = caller.request("POST", "/api/v1/checkpoints/upload", files={"file": ("a.tar.gz", data)}).json()["path"]
    info = caller.post("weights_info", {"tinker_path": path}).json()
    assert (info["base_model"], info["lora_rank"]) == (MODEL, 2)
    assert (info["train_attn"], info["train_mlp"], info["train_unembed"]) == (True, False, False)
    record = caller.backend.store.checkpoint(path)
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
    record = caller.backend.store.checkpoint(answer["path"])
    assert record is not None
    kept = load_file(record.folder / "adapter_model.safetensors")
    torch.testing.assert_close(_change(kept, 32.0), 1.5 * _change(_tensors(2), 8.0))


def test_interpolation_of_what_is_not_there(caller: Caller) -> None:
    for body in (
        {"source_paths": ["tinker://a/weights/b"], "coefficients": [1.0]},
        {"source_paths": ["tinker://a/weights/b"], "coefficients": []},
    ):
        assert caller.result(caller.post("mint/checkpoints/interpolate", body)).json()["category"] == "user"
