"""Small data and settings with which every stage of the pipeline API runs in a second on byte-tiny."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thumbs.compat.rlhf_pipeline import RLHFConfig, RLHFPipeline

NAMES = ("Ana", "Ben", "Eva", "Tom", "Lea", "Max", "Ida", "Leo", "Mia", "Jan", "Ute", "Kai")
BOS, SEP, EOS = 257, 258, 259

SHORT: dict[str, Any] = {
    "model_name": "byte-tiny",
    "tokenizer_path": "byte",
    "device": "cpu",
    "sft_epochs": 4,
    "sft_lr": 3e-3,
    "sft_batch_size": 4,
    "reward_epochs": 4,
    "reward_lr": 1e-3,
    "reward_batch_size": 4,
    "ppo_iterations": 5,
    "ppo_lr_policy": 1e-4,
    "ppo_batch_size": 6,
    "ppo_mini_batch_size": 3,
    "ppo_epochs": 2,
    "save_interval": 2,
    "max_length": 24,
}


def write_lines(path: Path, rows: Sequence[object]) -> str:
    """A file with one line for each row: text as it is, anything else as JSON."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def write_data(folder: Path) -> dict[str, str]:
    """The three data files, as settings."""
    talks = [{"conversations": [{"content": f"hi {n}"}, {"content": f"hello {n}"}]} for n in NAMES]
    pairs = [{"prompt": f"hi {n}", "chosen": f"hello {n}", "rejected": f"go {n}"} for n in NAMES]
    return {
        "sft_data_path": write_lines(folder / "sft.jsonl", talks),
        "reward_data_path": write_lines(folder / "pairs.jsonl", pairs),
        "ppo_data_path": write_lines(folder / "prompts.jsonl", [{"prompt": f"hi {n}"} for n in NAMES[:6]]),
    }


def short_config(folder: Path, **changes: Any) -> RLHFConfig:
    """Settings of a run in `folder`/out; its data is written there."""
    return RLHFConfig(**{**SHORT, **write_data(folder), "save_dir": str(folder / "out"), **changes})


def short_pipeline(folder: Path, **changes: Any) -> RLHFPipeline:
    """A pipeline with those settings."""
    return RLHFPipeline(short_config(folder, **changes))


def state_of(path: str | Path) -> dict[str, Tensor]:
    """The weights in a .pt file, read as its users read it."""
    return torch.load(path, weights_only=True)["model_state_dict"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two states hold the same bits under the same names."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recurrent(nn.Module):
    """A causal language model that is not a transformer: [B, T] → logits [B, T, V]."""

    def __init__(self, bias: bool = False, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(260, 24)
        self.mix = nn.GRU(24, 24, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(48 if bidirectional else 24, 260, bias=bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(tokens))[0])
