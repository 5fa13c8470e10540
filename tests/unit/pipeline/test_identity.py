"""Every row that was announced as usable is in the training set, whatever its id says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import write_rows

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.preferences import preferred
from thumbs.pipeline import stages
from thumbs.pipeline.labels import labels_until
from thumbs.pipeline.run import run_pipeline
from thumbs.tracking.files import read_json


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The rows that the reward stage is given; it is not run."""
    given: list[Any] = []

    def run_reward_model(
        context: Any, config: Any, start: Any, train: list[Any], heldout: list[Any], **_: Any
    ) -> dict[str, Any]:
        given.extend(train)
        return {"heldout": {"preferred": []}}

    monkeypatch.setattr(stages, "run_reward_model", run_reward_model)
    return given


def config_of(tmp_path: Path, rows: list[dict[str, Any]], form: str = "pairs") -> PipelineConfig:
    data = {"path": write_rows(tmp_path / "rows.jsonl", rows), "holdout": 0}
    settings = {"run": str(tmp_path / "run"), "model": {"name": "byte-tiny", "lora": None}, "reward_model": {}}
    return build_config(PipelineConfig, settings | {"labels": {"data": data, "form": form}})


IDS = {"none": lambda i: {}, "of the prompt": lambda i: {"id": f"q{i // 4}"}, "constant": lambda i: {"id": 0}}


@pytest.mark.parametrize("name", IDS)
def test_an_id_is_nobodys_identity(tmp_path: Path, trained: list[Any], name: str):
    rows = [
        {"prompt": f"Greet {i // 4}", "chosen": f"Sunny day {i}", "rejected": f"no {i}"} | IDS[name](i)
        for i in range(24)
    ]
    run = run_pipeline(config_of(tmp_path, rows), until="reward_model")
    assert read_json(run / "labels" / "done.json")["pairs"] == 24
    assert [pair.replies[0].text for pair in trained] == [f"Sunny day {i}" for i in range(24)]


def test_three_votes_on_a_pair_stay_three(tmp_path: Path, trained: list[Any]):
    rows = [
        {"prompt": f"Greet {i}", "chosen": "Sunny day", "rejected": "no", "label": label}
        for i in range(4)
        for label in (1, 1, 0)
    ]
    run = run_pipeline(config_of(tmp_path, rows), until="reward_model")
    assert [preferred(pair) for pair in trained] == [1.0, 1.0, 0.0] * 4
    assert len({pair.id for pair in labels_until(run, 1)}) == 12


def test_pairs_of_rankings_with_one_id_are_all_there(tmp_path: Path, trained: list[Any]):
    rows = [{"id": 1, "prompt": "Greet", "ranking": order} for order in (["a", "b", "c"], ["c", "a", "b"])]
    run_pipeline(config_of(tmp_path, rows, "rankings"), until="reward_model")
    assert len(trained) == 6


def test_a_mixture_keeps_the_rows_that_come_again(tmp_path: Path, trained: list[Any]):
    small = write_rows(tmp_path / "small.jsonl", [{"prompt": "Hi", "chosen": "a", "rejected": "b"}])
    large = [{"prompt": f"Greet {i}", "chosen": "Sunny day", "rejected": "no"} for i in range(6)]
    config = config_of(tmp_path, large)
    assert config.labels is not None
    assert config.labels.data is not None
    path = [{"path": small, "weight": 1}, {"path": config.labels.data.path, "weight": 1}]
    data = {"labels": {"data": {"path": path, "holdout": 0}}}
    run_pipeline(build_config(PipelineConfig, config.model_dump(exclude_unset=True) | data), until="reward_model")
    assert len(trained) == 12
