"""A rehearsal refuses what the run would refuse, says what would happen, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.config.base import apply_overrides, build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError, DataError, RunError
from thumbs.pipeline.rehearsal import Rehearsal, rehearse
from thumbs.pipeline.run import run_pipeline


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    rows = [{"prompt": f"Say {i}", "response": "yes"} for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"Ask {i}"}) + "\n" for i in range(4)), encoding="utf-8")
    return {
        "run": str(tmp_path / "run"),
        "model": {"name": "byte-tiny", "lora": None},
        "sft": {"data": {"path": str(path)}, "epochs": 1, "batch_size": 16},
        "evaluation": {"prompts": {"path": str(asked)}, "best_of": 1, "sampling": {"max_new_tokens": 4}},
    }


def config_of(settings: dict[str, Any], *overrides: str) -> PipelineConfig:
    return build_config(PipelineConfig, apply_overrides(settings, overrides))


def fates(found: Rehearsal) -> dict[str, str]:
    return dict(found.stages)


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_what_would_happen_to_a_new_run_a_stopped_one_and_one_that_takes_stages(
    settings: dict[str, Any], tmp_path: Path
):
    config = config_of(settings)
    found = rehearse(config)
    assert fates(found) == {"sft": "begins", "evaluation": "begins"}
    assert not (tmp_path / "run").exists()
    assert found.forecast is not None
    assert [work.stage for work in found.forecast.work] == ["sft", "evaluation"]
    assert fates(rehearse(config, until="sft")) == {"sft": "begins"}

    run_pipeline(config, until="sft")
    before = snapshot(tmp_path)
    found = rehearse(config)
    assert fates(found) == {"sft": "is done already", "evaluation": "begins"}
    assert found.forecast is not None
    assert [work.stage for work in found.forecast.work] == ["evaluation"]
    assert fates(rehearse(config, fresh=True)) == {"sft": "begins", "evaluation": "begins"}
    assert "would be emptied first (--fresh)" in rehearse(config, fresh=True).text()
    other = config_of(settings, f"run={tmp_path / 'other'}")
    assert fates(rehearse(other, source=tmp_path / "run"))["sft"] == f"taken from {tmp_path / 'run'}"
    with pytest.raises(RunError, match="was made with another config"):
        rehearse(config_of(settings, "sft.epochs=2"))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("override", "error", "says"),
    [
        ("sft.data.path=nowhere.jsonl", DataError, "nowhere.jsonl: no such file"),
        ("sft.data.min_rows=1000", DataError, "1000"),
        ("iterations=2", ConfigError, "needs exactly one method"),
        ("run=rows.jsonl/run", RunError, "rows.jsonl is not a folder that can be written"),
    ],
)
def test_what_the_run_would_refuse_is_refused(
    settings: dict[str, Any], override: str, error: type, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        rehearse(config_of(settings, override))


def test_a_folder_that_holds_something_else_is_not_emptied(settings: dict[str, Any], tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="holds no run, so --fresh does not delete it"):
        rehearse(config_of(settings), fresh=True)
