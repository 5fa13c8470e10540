"""Runs with a group method: rules instead of a reward model, tools, and what a plan says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings, write_rows

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError
from thumbs.pipeline.inputs import read_inputs
from thumbs.pipeline.pitfalls import pitfalls
from thumbs.pipeline.run import run_pipeline
from thumbs.pipeline.workload import StageWork, work_of
from thumbs.report.build import build_report
from thumbs.tracking.files import read_json
from thumbs.tracking.metrics import MetricLog


def settings(folder: Path, **group: Any) -> dict[str, Any]:
    """A run of SFT and a group method, without pairs and reward model."""
    tiny = tiny_settings(folder)
    rows = [{"prompt": name, "answer": name[0]} for name in ("Ana", "Ben", "Cleo", "Dan")]
    return {key: tiny[key] for key in ("run", "model", "sft", "evaluation", "fixed_prompts")} | {
        "group": {
            "prompts": {"path": write_rows(folder / "questions.jsonl", rows)},
            "reward": [{"verifier": "contains", "weight": 2.0}],
            "steps": 2,
            "batch_size": 4,
            "minibatch_size": 4,
            "group_size": 2,
            "sampling": {"max_new_tokens": 6},
            **group,
        },
        "evaluation": tiny["evaluation"]
        | {"prompts": {"path": write_rows(folder / "asked.jsonl", [{"prompt": "Ida", "answer": "I"}])}},
    }


def test_a_run_of_rules_alone_needs_no_reward_model(tmp_path: Path):
    config = build_config(PipelineConfig, settings(tmp_path))
    run = run_pipeline(config)
    log = MetricLog(run / "group" / "metrics.jsonl").read()
    assert [record["step"] for record in log] == [1, 2]
    for record in log:
        assert record["group/score"] == pytest.approx(2 * record["group/part/contains"])
    results = read_json(run / "evaluation" / "results.json")
    assert set(results["systems"]) >= {"sft", "group"}
    assert 0 <= results["systems"]["group"]["proxy"] <= 2
    page = build_report(run).read_text(encoding="utf-8")
    assert "Groups without signal" in page
    # An untrained model writes no two words in a row, so there is nothing to compare the variety with.
    assert results["systems"]["sft"]["distinct2"] == 0
    assert read_json(run / "summary.json")["group.distinct2_ratio"] is None


def test_ppo_takes_the_same_rewards(tmp_path: Path):
    sections = settings(tmp_path)
    own = {key: sections["group"][key] for key in ("prompts", "steps", "batch_size", "minibatch_size", "sampling")}
    rewards = [{"verifier": "contains", "weight": 2.0}, {"verifier": "regex", "pattern": ".", "name": "any"}]
    del sections["group"], sections["evaluation"]
    run = run_pipeline(build_config(PipelineConfig, sections | {"ppo": own | {"reward": rewards}}))
    for record in MetricLog(run / "ppo" / "metrics.jsonl").read():
        assert record["ppo/score"] == pytest.approx(2 * record["ppo/part/contains"] + record["ppo/part/any"])


def test_a_run_with_tools_is_rewarded_by_their_environment(tmp_path: Path):
    environment = {"factory": "thumbs.envs.base:SingleTurn", "max_tokens": 64}
    sections = settings(tmp_path, reward=[], environment=environment)
    del sections["evaluation"]
    run = run_pipeline(build_config(PipelineConfig, sections))
    assert read_json(run / "group" / "done.json")["last"]["group/score"] == 0.0


def found(folder: Path, **group: Any) -> str:
    config = build_config(PipelineConfig, settings(folder, **group))
    return "\n".join(pitfalls(config, read_inputs(config, ByteTokenizer()), 256))


def test_what_is_missing_is_said_beforehand(tmp_path: Path):
    assert "needs section" not in found(tmp_path)
    assert "section `group` needs section `reward_model`" in found(tmp_path, reward=[{"model": "reward"}])
    alone = found(tmp_path, reward=[])
    assert "section `group` needs section `reward_model`" in alone
    own = found(tmp_path, reward=[], environment={"factory": "thumbs.envs.base:SingleTurn"})
    assert "section `group`" not in own
    assert "group.environment.max_tokens=1024, the model's context is 256" in own


def test_prompts_of_the_evaluation_need_answers_for_the_same_rules(tmp_path: Path):
    sections = settings(tmp_path)
    sections["evaluation"]["prompts"] = {"path": write_rows(tmp_path / "asked.jsonl", [{"prompt": "Ida"}])}
    with pytest.raises(Exception, match="has no answer to compare with"):
        run_pipeline(build_config(PipelineConfig, sections))


@pytest.mark.parametrize(
    ("group", "staleness", "read", "sampled"),
    [
        ({}, 0, 1, 2),  # GRPO asks the reference once
        ({"method": "dr_grpo"}, 0, 0, 2),
        ({"method": "dr_grpo"}, 1, 1, 3),  # one batch ahead; the policy of now is asked
        ({"method": "dr_grpo", "reward": []}, 0, 1, 2),  # the reward model
    ],
)
def test_the_work_of_a_group_method(tmp_path: Path, group: dict[str, Any], staleness: int, read: int, sampled: int):
    """Four prompts of 4 to 6 tokens ("Ana" is [BOS] Ana [SEP]), two of them a step with two replies of 6 each."""
    sections = settings(tmp_path, **group)
    sections.pop("sft")
    sections |= {"fixed_prompts": [], "rollout": {"staleness": staleness}}
    config = build_config(PipelineConfig, sections)
    (work,) = [w for w in work_of(config, read_inputs(config, ByteTokenizer())) if w.stage == "group"]
    prompt = (5 + 5 + 6 + 5) / 4
    tokens = 2 * 2 * (prompt + 2 * 6)
    assert work == StageWork(
        "group",
        4,
        steps=2,
        trained=tokens,
        read=read * tokens + 2 * 2 * prompt,
        new=tokens,
        sampled=sampled * 4 * 6,
        sampling_rows=4,
        snapshots=2,
    )


def test_settings_that_do_not_fit_stop_a_run_before_it_starts(tmp_path: Path):
    with pytest.raises(ConfigError, match="means nothing to method dro"):
        run_pipeline(build_config(PipelineConfig, settings(tmp_path, method="dro", clip_range=0.1)))
    assert not (tmp_path / "run").exists()
