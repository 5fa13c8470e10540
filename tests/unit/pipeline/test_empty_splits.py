"""A split that leaves a side empty stops a run before anything is trained, and the plan too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.splits import is_heldout
from thumbs.errors import DataError
from thumbs.pipeline.plan import plan
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Message

HELD = next(f"Question {i}" for i in range(99) if is_heldout([Message("user", f"Question {i}")], 0.1))
TRAINED = next(f"Question {i}" for i in range(99) if not is_heldout([Message("user", f"Question {i}")], 0.1))
SYSTEM = [{"role": "system", "content": "Be kind."}]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def asked(prompt: str) -> list[dict[str, str]]:
    return [*SYSTEM, {"role": "user", "content": prompt}]


def config_of(tmp_path: Path, section: str, prompt: str) -> dict[str, Any]:
    """A config whose rows in that section all begin with the prompt; those of other sections are sound."""
    both = [HELD, TRAINED]

    def rows(name: str, make: Any) -> dict[str, Any]:
        prompts = [prompt] * 4 if name == section else both
        path = tmp_path / f"{name}.jsonl"
        return {"path": write(path, [make(p, i) for i, p in enumerate(prompts)])}

    def pair(p: str, i: int) -> dict[str, Any]:
        return {"prompt": asked(p), "chosen": f"good {i}", "rejected": "bad"}

    found: dict[str, Any] = {
        "run": str(tmp_path / "run"),
        "model": {"name": "byte-tiny", "lora": None},
        "sft": {
            "data": rows("sft.data", lambda p, i: {"messages": [*asked(p), {"role": "assistant", "content": str(i)}]})
        },
    }
    if section == "reward_model.data":
        rated = rows(section, lambda p, i: {"prompt": asked(p), "reply": f"r{i}", "rating": i})
        found["reward_model"] = {"data": rated, "loss": "regression"}
    elif section == "direct.unpaired":
        unpaired = rows(section, lambda p, i: {"prompt": asked(p), "completion": f"r{i}", "label": i % 2 == 0})
        found["direct"] = {"method": "kto", "unpaired": unpaired}
    elif section == "labels.prompts":
        prompts = rows(section, lambda p, i: {"prompt": p, "system": f"Be kind {i}."})
        found |= {"labels": {"prompts": prompts}, "reward_model": {}}
    else:
        found |= {"labels": {"data": rows("labels.data", pair)}, "reward_model": {}}
    return found


SECTIONS = ["sft.data", "labels.data", "labels.prompts", "reward_model.data", "direct.unpaired"]


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize(
    ("prompt", "says"), [(HELD, "none is left to train on"), (TRAINED, "falls on the held-out side")]
)
def test_an_empty_side_stops_plan_and_run_before_the_first_stage(tmp_path: Path, section: str, prompt: str, says: str):
    config = build_config(PipelineConfig, config_of(tmp_path, section, prompt))
    for start in (lambda: plan(config, probe=False), lambda: run_pipeline(config)):
        with pytest.raises(DataError, match=says) as caught:
            start()
        assert str(caught.value).startswith(f"{section}: ")
        assert f"{section}.holdout=0" in str(caught.value)
    assert not (tmp_path / "run").exists()
