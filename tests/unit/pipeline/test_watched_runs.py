"""Runs whose policies are watched: the second reward model, what is written down, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.pipeline.model_card import model_card
from thumbs.pipeline.run import run_pipeline
from thumbs.tracking.files import read_json
from thumbs.tracking.run_folder import StageFolder


def config_of(folder: Path, **changes: Any) -> PipelineConfig:
    folder.mkdir(exist_ok=True)
    settings = tiny_settings(folder)
    settings.pop("evaluation")
    return build_config(PipelineConfig, settings | {"watch": {"prompts": 8}} | changes)


def test_a_watched_run_trains_a_second_reward_model_on_the_held_out_pairs_and_looks_at_each_step(tmp_path: Path):
    config = config_of(tmp_path)
    path = run_pipeline(config)
    first, second = (read_json(path / "reward_model" / name) for name in ("done.json", "second/done.json"))
    assert (second["pairs"], second["heldout_pairs"]) == (first["heldout_pairs"], first["pairs"])
    rows = StageFolder(path / "ppo").metrics.read()
    assert config.ppo is not None
    assert len(rows) == config.ppo.steps + 1  # with that before the first step
    assert all("watch/value" in row and "watch/second_proxy" in row for row in rows)
    assert (path / "ppo" / "watch").is_dir()
    run_pipeline(config)  # done: nothing runs again
    assert StageFolder(path / "ppo").metrics.read() == rows


def test_a_second_proxy_of_others_is_read_and_the_card_tells_of_alarms(tmp_path: Path):
    other = run_pipeline(config_of(tmp_path / "one"), until="reward_model")
    watch = {"prompts": 8, "second_proxy": str(other / "reward_model")}
    path = run_pipeline(config_of(tmp_path / "two", watch=watch), until="ppo")
    assert not (path / "reward_model" / "second").exists()
    assert "## Alarms" not in model_card(path, "ppo", form="hf")
    StageFolder(path / "ppo").alarms.append(2, {"alarm": "the reward is being gamed"})
    card = model_card(path, "ppo", form="hf")
    assert "1 alarm was raised; the first at step 2" in card
    assert "- step 2: the reward is being gamed" in card


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ppo": None}, "no method of this run samples"),
        ({"reward_model": None, "labels": None}, "name a reward model in watch.second_proxy"),
        ({"labels": {"data": {"path": "pairs.jsonl", "holdout": 0.0}}}, "labels holds none out"),
        ({"watch": {"prompts": 8, "second_proxy": "nowhere/at/all"}}, "nowhere/at/all"),
        ({"watch": {"act": "panic"}}, "rollback"),
        ({"watch": {"gold": "people"}}, "nobody can be asked at each look"),
        ({"watch": {"gold": {"function": "no.such:thing"}}}, "no.such"),
        ({"watch": {"kl_after": 0.5}}, "set watch.act=rollback in a run of PPO"),
        ({"watch": {"kl_after": 0.01, "act": "rollback"}}, "not above ppo.kl.coef"),
        (
            {"watch": {"kl_after": 0.5, "act": "rollback"}, "rollout": {"staleness": 1}},
            "of the policy that was given up",
        ),
    ],
)
def test_what_cannot_be_watched_is_refused_before_anything_runs(changes: dict[str, Any], said: str, tmp_path: Path):
    if changes.get("reward_model", 1) is None:
        changes = changes | {"ppo": tiny_settings(tmp_path)["ppo"] | {"reward": [{"verifier": "exact"}]}}
    with pytest.raises(ConfigError, match=said):
        run_pipeline(config_of(tmp_path, **changes))
    assert not (tmp_path / "run" / "sft").exists()


def test_with_gold_no_second_reward_model_is_needed_and_values_are_gold(tmp_path: Path):
    changes = {
        "watch": {"prompts": 8, "gold": "unit.pipeline.watch_gold:letters"},
        "reward_model": None,
        "labels": None,
    }
    ppo = tiny_settings(tmp_path)["ppo"] | {"reward": [{"function": "unit.pipeline.watch_gold:letters"}]}
    path = run_pipeline(config_of(tmp_path, **changes, ppo=ppo))
    rows = StageFolder(path / "ppo").metrics.read()
    assert [row["watch/value"] for row in rows] == [row["watch/gold"] for row in rows]
    assert [row["watch/gold"] for row in rows] == [row["watch/proxy"] for row in rows]
    assert all("watch/second_proxy" not in row and "watch/gap" not in row for row in rows)


def test_each_iteration_is_watched(tmp_path: Path):
    prompts = tiny_settings(tmp_path)["ppo"]["prompts"] | {"holdout": 0.4}
    labels = {"prompts": prompts, "tie_below": 0.0, "sampling": {"max_new_tokens": 6}}
    with pytest.MonkeyPatch.context() as patch:  # of an untrained model vader would call every pair a tie
        patch.setattr("thumbs.evaluation.judges.vader", lambda _, reply: float(sum(reply.encode())))
        path = run_pipeline(config_of(tmp_path, iterations=2, labels=labels))
    for place in ("ppo", "iteration-2/ppo"):
        rows = StageFolder(path / place).metrics.read()
        assert [row["step"] for row in rows] == [0, 1, 2]
        assert all("watch/value" in row and "watch/second_proxy" in row for row in rows)
        assert (path / place / "watch").is_dir()
    assert (path / "iteration-2/reward_model/second/done.json").exists()
