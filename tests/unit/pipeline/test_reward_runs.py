"""Reward models of every form in a run: their rows from a file, what the next stage sees of them, and their audit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thumbs.cli.evaluate import audit_lines
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.preferences import PreferenceStore
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, DataError
from thumbs.pipeline.inputs import read_inputs
from thumbs.pipeline.reward_audit import audit_reward, split
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.stages import Pipeline
from thumbs.pipeline.workload import work_of
from thumbs.report.build import build_report
from thumbs.rewards.ensemble import RewardEnsemble
from thumbs.rewards.model import RewardModel
from thumbs.rewards.steps import StepReward
from thumbs.tracking.run_folder import RunFolder

NAMES = [f"Person {i}" for i in range(24)]
ROWS: dict[str, Any] = {
    "rankings": lambda name: [{"prompt": name, "replies": ["bad", "good", "so-so"], "ranks": [3, 1, 2]}],
    "ratings": lambda name: [{"prompt": name, "reply": word, "rating": n} for n, word in enumerate(("bad", "good"))],
    "steps": lambda name: [{"prompt": name, "steps": ["good", "bad"], "labels": [1, 0]}],
}
MODEL = {"name": "byte-tiny", "lora": None, "dtype": "float32"}


def file(folder: Path, form: str) -> dict[str, Any]:
    path = folder / f"{form}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for name in NAMES for row in ROWS[form](name)), encoding="utf-8")
    return {"path": str(path), "holdout": 0.3}


def run(folder: Path, reward: dict[str, Any], **sections: Any) -> Path:
    settings = {"run": str(folder / "run"), "model": MODEL, "reward_model": {"eval_every": 4, **reward}, **sections}
    return run_pipeline(build_config(PipelineConfig, settings))


def source(path: Path) -> Any:
    config = build_config(PipelineConfig, json.loads((path / "config.json").read_text(encoding="utf-8")))
    return Pipeline(config, RunFolder(path), ByteTokenizer(), LocalEngine()).reward_source()


@pytest.mark.parametrize(
    ("reward", "form", "kind"),
    [
        ({"loss": "plackett_luce", "heads": 2, "combine": "worst"}, "rankings", RewardEnsemble),
        ({"loss": "ordinal", "adapters": 2}, "ratings", RewardEnsemble),
        ({"loss": "regression"}, "ratings", RewardModel),
        ({"loss": "process"}, "steps", StepReward),
    ],
)
def test_a_run_trains_from_a_file_and_the_next_stage_finds_it(
    tmp_path: Path, reward: dict[str, Any], form: str, kind: type
):
    path = run(tmp_path, reward | {"data": file(tmp_path, form)})
    done = json.loads((path / "reward_model" / "done.json").read_text(encoding="utf-8"))
    assert done[form] + done[f"heldout_{form}"] == len(NAMES) * (2 if form == "ratings" else 1)
    assert ("audit" in done) == (form != "steps")
    assert isinstance(source(path), kind)


def test_pairs_of_rankings_train_what_needs_pairs(tmp_path: Path):
    path = run(tmp_path, {}, labels={"data": file(tmp_path, "rankings"), "form": "rankings"})
    done = json.loads((path / "reward_model" / "done.json").read_text(encoding="utf-8"))
    assert done["pairs"] + done["heldout_pairs"] == 3 * len(NAMES)
    audited = audit_reward(path)
    # A third of the held-out prompts chose the checkpoint, so the others report it.
    assert audited["pairs"]["n"] == done["audit"]["n"] == done["heldout_pairs"] - done["choosing_pairs"] > 0
    assert audited["pairs"]["accuracy"] == done["audit"]["accuracy"]
    assert "each trained on half of the prompts" not in build_report(path).read_text(encoding="utf-8")


def test_an_audit_with_halves_is_kept_shown_and_reported(tmp_path: Path):
    path = run(tmp_path, {"loss": "ranked_pairs", "heads": 2, "data": file(tmp_path, "rankings"), "epochs": 2})
    audited = audit_reward(path, halves=True)
    assert json.loads((path / "reward_model" / "audit.json").read_text(encoding="utf-8")) == json.loads(
        json.dumps(audited)
    )
    assert audited["halves"]["n"] == audited["pairs"]["n"] > 0
    assert audit_reward(path, halves=True) == audited  # nothing is trained again
    shown = "\n".join(audit_lines(audited))
    for name in (
        "accuracy",
        "calibration error",
        "no end token",
        "agreement of models of two halves",
        "bold first line",
    ):
        assert name in shown
    report = build_report(path).read_text(encoding="utf-8")
    assert "What it looks at" in report
    assert "each trained on half of the prompts" in report


def test_without_pairs_or_a_reward_model_there_is_nothing_to_audit(tmp_path: Path):
    path = run(tmp_path, {"loss": "process", "data": file(tmp_path, "steps")})
    with pytest.raises(DataError, match="0 held-out pairs"):
        audit_reward(path)
    (path / "config.json").write_text(json.dumps({"run": "x", "model": MODEL}), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no reward model"):
        audit_reward(path)


def test_halves_share_no_prompt(tmp_path: Path):
    path = run(tmp_path, {"loss": "regression", "data": file(tmp_path, "ratings")})
    config = build_config(PipelineConfig, json.loads((path / "config.json").read_text(encoding="utf-8")))
    assert config.reward_model is not None
    train, _ = Pipeline(config, RunFolder(path), ByteTokenizer(), LocalEngine()).reward_rows(config.reward_model)
    (_, one), (_, two) = split(train)
    assert {row.prompt for row in one}.isdisjoint({row.prompt for row in two})
    assert abs(len(one) - len(two)) <= 2
    assert len(one) + len(two) == len(train)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"loss": "plackett_luce"}, "learns from rankings; give reward_model.data"),
        ({"data": {"path": "x.jsonl"}}, "put data into the section `labels`"),
        ({"heads": 2, "adapters": 2}, "either several heads or several adapters"),
        ({"loss": "process", "data": {"path": "x"}, "heads": 2}, "process rewards have no ensembles"),
        ({"loss": "placket_luce"}, "plackett_luce"),
    ],
)
def test_settings_that_do_not_fit_are_refused(reward: dict[str, Any], says: str):
    with pytest.raises(ConfigError, match=says):
        build_config(PipelineConfig, {"reward_model": reward})


def test_a_model_may_judge_the_pairs(tmp_path: Path):
    """An untrained one cannot tell them apart, and says so."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Ana\nBen\n", encoding="utf-8")
    section = {"prompts": {"path": str(prompts)}, "judge_model": "byte-tiny", "sampling": {"max_new_tokens": 4}}
    settings = {"run": str(tmp_path / "run"), "model": MODEL, "labels": section}
    path = run_pipeline(build_config(PipelineConfig, settings))
    rows = PreferenceStore(path / "labels" / "preferences.jsonl").load()
    assert rows
    for row in rows:
        (judgement,) = row.judgements
        assert (judgement.annotator, judgement.verdict) == ("byte-tiny", "tie")
        assert judgement.reason.startswith("P(first is better) = 0.")


def test_the_plan_counts_the_rows_of_a_file(tmp_path: Path):
    """A ranking of three replies, of which the longest has [BOS] prompt [SEP] reply [EOS], for each of two adapters."""
    reward = {"loss": "plackett_luce", "adapters": 2, "data": {**file(tmp_path, "rankings"), "holdout": 0.0}}
    config = build_config(PipelineConfig, {"model": MODEL, "reward_model": {**reward, "epochs": 3, "batch_size": 5}})
    (work,) = work_of(config, read_inputs(config, ByteTokenizer()))
    longest = [3 + len(name) + len("so-so") for name in NAMES]
    assert (work.stage, work.rows, work.held, work.steps) == ("reward_model", 24, 0, 15)
    assert work.trained == pytest.approx(2 * 3 * 3 * sum(longest))
    assert work.new == pytest.approx(3 * sum(longest))
