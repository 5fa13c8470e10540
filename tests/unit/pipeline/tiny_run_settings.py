"""Settings of the smallest run of the whole pipeline: byte-tiny, two optimizer steps a stage."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAMES = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def tiny_settings(folder: Path) -> dict[str, Any]:
    """Settings of a run in `folder`; its data are beside it."""
    demonstrations = write_rows(
        folder / "demonstrations.jsonl", [{"prompt": name, "completion": f"{name}, nice day."} for name in NAMES]
    )
    pairs = write_rows(
        folder / "pairs.jsonl",
        [{"prompt": name, "chosen": f"{name}, nice day.", "rejected": f"{name}, bad day."} for name in NAMES],
    )
    prompts = write_rows(folder / "prompts.jsonl", [{"prompt": name} for name in NAMES])
    heldout = write_rows(folder / "heldout.jsonl", [{"prompt": name} for name in ("Ida", "Jon")])
    return {
        "run": str(folder / "run"),
        "model": {"name": "byte-tiny", "lora": {"rank": 2, "layers": 2}},
        "system": "Greet.",
        "sft": {"data": {"path": demonstrations, "holdout": 0.3}, "epochs": 1, "batch_size": 4},
        # After two steps every sampled reply is noise, and any judge would call every pair a tie.
        "labels": {"data": {"path": pairs, "holdout": 0.3}},
        "reward_model": {"batch_size": 4},
        "ppo": {
            "prompts": {"path": prompts},
            "steps": 2,
            "batch_size": 4,
            "minibatch_size": 4,
            "epochs": 1,
            "sampling": {"max_new_tokens": 6},
        },
        "evaluation": {"prompts": {"path": heldout}, "gold": "vader", "sampling": {"max_new_tokens": 6}, "best_of": 2},
        "fixed_prompts": ["Ana"],
    }
