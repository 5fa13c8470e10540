"""What the preference stage is given by a run: pairs split by prompt, a file of single replies, or the run's reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.pipeline.run import run_pipeline
from thumbs.tracking.files import read_json
from thumbs.tracking.run_folder import StageFolder

WORDS = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay", "koi", "lynx")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    write("pairs.jsonl", [{"prompt": w, "chosen": w.upper(), "rejected": w} for w in WORDS])
    write("judged.jsonl", [{"prompt": w, "completion": w, "label": i % 3 == 0} for i, w in enumerate(WORDS)])
    write("prompts.jsonl", [{"prompt": w} for w in WORDS])
    return tmp_path


def trained(folder: Path, sections: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """done.json and the log of the preference stage."""
    config = {"run": str(folder / "run"), "model": {"name": "byte-tiny", "lora": None}, **sections}
    run = run_pipeline(build_config(PipelineConfig, config), until="direct")
    return read_json(run / "direct" / "done.json"), StageFolder(run / "direct").metrics.read()


def pairs_of(folder: Path) -> dict[str, Any]:
    return {"data": {"path": str(folder / "pairs.jsonl"), "holdout": 0.4}}


def test_pairs_are_split_by_prompt_and_the_held_out_ones_measured(folder: Path):
    done, log = trained(folder, {"labels": pairs_of(folder), "direct": {"eval_every": 1, "batch_size": 4}})
    assert done["pairs"] + done["heldout_pairs"] == len(WORDS)
    assert min(done["pairs"], done["heldout_pairs"]) >= 2
    assert [record["step"] for record in log if "preference/heldout_accuracy" in record] == list(range(len(log)))
    # The reference saw the training pairs in the same batch, and products of other widths may round otherwise.
    for side in ("chosen", "rejected"):
        assert log[0][f"preference/heldout_{side}_ratio"] == pytest.approx(0, abs=1e-5)


def test_kto_reads_a_file_of_single_replies_without_any_pairs(folder: Path):
    unpaired = {"path": str(folder / "judged.jsonl"), "holdout": 0.4}
    done, _ = trained(folder, {"direct": {"method": "kto", "unpaired": unpaired, "batch_size": 4}})
    assert done["replies"] + done["heldout_replies"] == len(WORDS)
    assert 0 < done["desirable"] < done["replies"]


def test_kto_takes_both_sides_of_the_runs_pairs(folder: Path):
    done, _ = trained(folder, {"labels": pairs_of(folder), "direct": {"method": "kto"}})
    assert done["replies"] + done["heldout_replies"] == 2 * len(WORDS)
    assert done["desirable"] == done["replies"] / 2


def test_online_dpo_asks_the_runs_reward_and_is_measured_on_its_held_out_pairs(folder: Path):
    online = {"prompts": {"path": str(folder / "prompts.jsonl")}, "steps": 2, "sampling": {"max_new_tokens": 4}}
    preference = {"method": "online_dpo", "online": online, "batch_size": 4, "eval_every": 1}
    sections = {"labels": pairs_of(folder), "reward_model": {"batch_size": 4}, "direct": preference}
    done, log = trained(folder, sections)
    assert (done["steps"], done["best_step"]) == (2, 2)
    assert [record["step"] for record in log if "preference/heldout_loss" in record] == [0, 1, 2]
    assert "preference/score" in log[1]
