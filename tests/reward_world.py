"""Run folders without a run: random adapters and heads, saved as stages save them; a tiny chat model; PEFT's and
transformers' own scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.engine.base import ModelSpec
from thumbs.engine.local import LocalEngine
from thumbs.records import Message
from thumbs.tracking.files import write_json
from tiny_models import save_random

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML: a line break follows the end of every turn, the last one too."""
MARKS = ("<|im_start|>", "<|pad|>", "<|im_end|>", "<|endoftext|>")
START, PAD, END, OUT = range(256, 260)
SHAPE: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
REPLIES = ("Good day to you!", "No.", "", "a much longer reply")
CHATS = [[Message("user", "Hi"), Message("assistant", reply)] for reply in REPLIES]
LORA = {"rank": 2, "layers": 1}


def write_tokenizer(folder: Path, pad: str = "<|im_end|>", template: str | None = TEMPLATE) -> Path:
    """Bytes and four marks; it pads with the token that ends a turn, as SmolLM2's does."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    encoder = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    folder.mkdir(parents=True, exist_ok=True)
    encoder.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": pad,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | ({"chat_template": template} if template else {}))
    )
    return folder


def chat_model(folder: Path, *, dtype: str = "float32", **changes: Any) -> Path:
    """A random Llama with that tokenizer, two end tokens and sampling defaults."""
    save_random(LlamaConfig(**SHAPE | {"pad_token_id": END, "eos_token_id": END} | changes), write_tokenizer(folder))
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"dtype": dtype}))
    (folder / "generation_config.json").write_text(
        json.dumps(
            {"eos_token_id": [END, OUT], "pad_token_id": END, "temperature": 0.6, "top_p": 0.9, "do_sample": True}
        )
    )
    return folder


def made_run(
    folder: Path, stage: str = "reward_model", base: str | Path = "byte-tiny", lora: Any = LORA, **settings: Any
) -> Path:
    """The folder of a run whose stage left a model with random adapters (or weights), and of `reward` a random head."""
    given = {"run": str(folder), "model": {"name": str(base), "lora": lora, "dtype": "float32"}}
    reward = {"labels": {"data": {"path": "pairs.jsonl"}}, "reward_model": {}} if stage.endswith("reward_model") else {}
    config = build_config(PipelineConfig, given | reward | settings)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    engine = LocalEngine()
    heads = ("scalar",) if stage.endswith("reward_model") else ("lm",)
    scores = config.reward_model.heads if config.reward_model is not None else 1
    handle = engine.create(ModelSpec(stage, config.model, heads, seed=config.seed, scores=scores))
    generator = torch.Generator().manual_seed(1)
    network = engine.model(handle)
    for name, parameter in [(n, p) for m in (network.adapter, network.scalar) if m for n, p in m.named_parameters()]:
        if not name.endswith("bias"):
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    engine.save(handle, folder / stage / "model")
    write_json(folder / stage / "done.json", {"score_mean": 0.5, "score_std": 2.0})
    return folder


@torch.no_grad()
def padded_scores(model: Any, rows: list[list[int]], pad: int, side: str = "right") -> Tensor:
    """Logits [B] of a classifier on a padded batch, as transformers gives them."""
    longest = max(map(len, rows))
    fill = [[pad] * (longest - len(row)) for row in rows]
    tokens = torch.tensor([r + f if side == "right" else f + r for r, f in zip(rows, fill, strict=True)])
    ones = [[1] * len(row) for row in rows]
    none = [[0] * len(f) for f in fill]
    mask = torch.tensor([o + n if side == "right" else n + o for o, n in zip(ones, none, strict=True)])
    return model.eval()(input_ids=tokens, attention_mask=mask).logits[:, 0]
