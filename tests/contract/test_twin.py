"""The example in one file and the library, on the same weights, data and order, take the same SFT steps.

They share no line of code, so each is the other's oracle: model, masks, loss, gradient, clipping, Adam, schedule.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from example_files import load_example
from thumbs.config.data import DataConfig
from thumbs.config.model import ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.sft import SftConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.local import LocalEngine
from thumbs.records import Message
from thumbs.stages.context import Context, batch_at
from thumbs.stages.sft import run_sft
from thumbs.tracking.run_folder import StageFolder

EPOCHS, STEPS = 4, 10


@pytest.fixture(scope="module")
def example() -> ModuleType:
    return load_example("from_scratch/instructgpt.py")


def save_as_llama(example: ModuleType, model: torch.nn.Module, folder: Path) -> Path:
    """The example's weights as a Hugging Face folder, with the library's byte tokenizer."""
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": example.VOCABULARY,
        "hidden_size": example.WIDTH,
        "intermediate_size": example.INNER,
        "num_hidden_layers": example.LAYERS,
        "num_attention_heads": example.HEADS,
        "num_key_value_heads": example.HEADS,
        "max_position_embeddings": example.CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": example.THETA,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {}
    for name, weight in model.state_dict().items():
        part = "self_attn." if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj") else ""
        part = "mlp." if name.split(".")[-2] in ("gate_proj", "up_proj", "down_proj") else part
        head, _, tail = name.rpartition(f"{name.split('.')[-2]}.")
        tensors[f"model.{head}{part}{name.split('.')[-2]}.{tail}"] = weight.clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ByteTokenizer().save(folder)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_first_ten_sft_steps_are_the_same(tmp_path: Path, example: ModuleType, seed: int):
    model = example.GPT(seed)
    name = str(save_as_llama(example, model, tmp_path / "llama"))
    tokenizer = ByteTokenizer()
    context = Context(
        LocalEngine(tokenizer.decode),
        tokenizer,
        StageFolder(tmp_path / "sft"),
        ModelConfig(name=name, lora=None, dtype="float32"),
        seed,
    )
    optim = AdamConfig(learning_rate=example.SFT_RATE, warmup_fraction=0.1, beta2=0.95)
    config = SftConfig(data=DataConfig(path="unused"), epochs=EPOCHS, batch_size=example.SFT_BATCH, optim=optim)
    conversations = [(Message("user", q), Message("assistant", a)) for q, a in example.DEMONSTRATIONS]
    run_sft(context, config, conversations, [])
    ours = [record["sft/loss"] for record in context.folder.metrics.read()]

    steps = EPOCHS * -(-len(conversations) // example.SFT_BATCH)
    batches = [batch_at(example.DEMONSTRATIONS, step, example.SFT_BATCH, seed, "sft") for step in range(steps)]
    theirs, _ = example.fit("SFT", model, example.SFT_RATE, [batches], lambda batch: example.sft_loss(model, batch))
    assert len(ours) == len(theirs) == steps > STEPS
    assert theirs[STEPS - 1] < theirs[0] - 0.5  # they learn, so that equality says something
    np.testing.assert_allclose(ours[:STEPS], theirs[:STEPS], rtol=2e-4)
