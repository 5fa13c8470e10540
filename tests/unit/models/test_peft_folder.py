"""Adapters that PEFT wrote, as models: the same logits as PEFT's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from thumbs.config.model import ModelConfig
from thumbs.errors import ModelError
from thumbs.models.trunk import open_trunk
from tiny_models import LLAMA, load_reference, save_random

TOKENS = torch.arange(3, 40)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path / "cache"))


def adapted(folder: Path, **settings: Any) -> tuple[Path, torch.Tensor]:
    """A folder that PEFT saved, and PEFT's logits."""
    base = save_random(LLAMA, folder / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False, **{"r": 4, "lora_alpha": 12, **settings})
    torch.manual_seed(1)
    model = peft.get_peft_model(load_reference(base), config).eval()
    model.save_pretrained(folder / "adapter")
    with torch.no_grad():
        return folder / "adapter", model(TOKENS[None]).logits[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["q_proj", "down_proj"], "use_rslora": True},
        {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"1.mlp.up_proj": 3}},
        {"target_modules": ["o_proj"], "layers_to_transform": [1]},
    ],
)
def test_the_logits_are_those_of_peft(tmp_path: Path, settings: dict[str, Any]):
    folder, expected = adapted(tmp_path, **settings)
    plain = load_reference(tmp_path / "base")(TOKENS[None]).logits[0]
    assert (plain - expected).abs().max() > 0.01
    trunk = open_trunk(ModelConfig(name=str(folder), dtype="float32"), seed=0)
    with torch.no_grad():
        found = trunk.forward_packed(TOKENS, [len(TOKENS)]) @ trunk.head_weight().T
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_what_is_no_plain_lora_is_refused(tmp_path: Path):
    folder, _ = adapted(tmp_path, target_modules=["q_proj"], use_dora=True)
    with pytest.raises(ModelError, match="only plain LoRA"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "use_dora": False, "base_model_name_or_path": None}), encoding="utf-8")
    with pytest.raises(ModelError, match="does not say what its base is"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)


def test_another_base_and_pickled_weights_are_refused(tmp_path: Path):
    folder, _ = adapted(tmp_path, target_modules=["q_proj"], layers_to_transform=[1])
    shallow = save_random(type(LLAMA)(**{**LLAMA.to_dict(), "num_hidden_layers": 1}), tmp_path / "shallow")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(shallow)}), encoding="utf-8")
    with pytest.raises(ModelError, match="is this the adapter's base"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled adapters are not read"):
        open_trunk(ModelConfig(name=str(folder)), seed=0)
