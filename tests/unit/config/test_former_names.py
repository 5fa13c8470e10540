"""Configs, overrides and commands of earlier versions mean what they meant; the oracle has the names of now."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from thumbs.cli.main import app
from thumbs.config.base import build_config, load_config
from thumbs.config.former_names import COMMANDS, RUN_SETTINGS, current_key, current_place
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError

PROMPTS = {"path": "prompts.jsonl"}
RULE = [{"verifier": "exact"}, {"model": "reward", "weight": 0.5}]
OLD: dict[str, Any] = {
    "sft": {"data": {"path": "talks.jsonl"}},
    "preferences": {"prompts": PROMPTS, "label_noise": 0.1},
    "reward": {"epochs": 3},
    "preference": {"method": "online_dpo", "online": {"prompts": PROMPTS, "rewards": RULE}},
    "ppo": {"prompts": PROMPTS, "rewards": RULE},
    "group": {"prompts": PROMPTS, "rewards": RULE, "staleness": 2},
    "rejection": {"prompts": PROMPTS, "rewards": RULE},
    "evaluation": {"prompts": PROMPTS, "judge": "vader"},
}
PARTS = [{"verifier": "exact"}, {"model": "reward_model", "weight": 0.5}]
NEW: dict[str, Any] = {
    "sft": {"data": {"path": "talks.jsonl"}},
    "labels": {"prompts": PROMPTS, "label_noise": 0.1},
    "reward_model": {"epochs": 3},
    "direct": {"method": "online_dpo", "online": {"prompts": PROMPTS, "reward": PARTS}},
    "ppo": {"prompts": PROMPTS, "reward": PARTS},
    "group": {"prompts": PROMPTS, "reward": PARTS},
    "rejection": {"prompts": PROMPTS, "reward": PARTS},
    "rollout": {"staleness": 2},
    "evaluation": {"prompts": PROMPTS, "gold": {"rule": "vader"}},
}


def written(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_whole_config_of_old_names_is_the_config_of_new_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    expected = build_config(PipelineConfig, NEW)
    with caplog.at_level(logging.WARNING, "thumbs"):
        assert not caplog.records
        assert load_config(PipelineConfig, written(tmp_path, OLD)) == expected
    (line,) = caplog.messages
    assert all(f"{old} → {new}" in line for old, new in RUN_SETTINGS.items())
    assert build_config(PipelineConfig, OLD) == expected
    assert OLD["preference"]["online"]["rewards"] is RULE  # the caller's own stays as it was


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("preferences.label_noise=0.2", "labels.label_noise=0.2"),
        ("reward.optim.learning_rate=1e-4", "reward_model.optim.learning_rate=1e-4"),
        ("preference={method: simpo}", "direct={method: simpo}"),
        ("preference={method: online_dpo, online: {prompts: p, rewards: []}}", "direct.online.reward=[]"),
        ("preference.online.rewards=[{verifier: contains}]", "direct.online.reward=[{verifier: contains}]"),
        ("ppo.rewards=[{model: reward}]", "ppo.reward=[{model: reward_model}]"),
        ("reward=null", "reward_model=null"),
    ],
)
@pytest.mark.parametrize("config", [OLD, NEW], ids=["old file", "new file"])
def test_an_override_of_an_old_name_sets_what_it_set(
    config: dict[str, Any], old: str, new: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = written(tmp_path, config)
    expected = load_config(
        PipelineConfig, path, [new] if "prompts: p," not in old else [new, "direct.online.prompts=p"]
    )
    caplog.clear()
    with caplog.at_level(logging.WARNING, "thumbs"):
        assert load_config(PipelineConfig, path, [old]) == expected
    assert caplog.messages
    assert current_key(old.partition("=")[0]) in caplog.messages[0]


@pytest.mark.parametrize(
    ("config", "both"),
    [
        ({"preferences": {}, "labels": {}}, "`preferences` and `labels`"),
        ({"reward": {}, "reward_model": {}}, "`reward` and `reward_model`"),
        ({"ppo": {"prompts": PROMPTS, "rewards": [], "reward": []}}, "`ppo.rewards` and `ppo.reward`"),
    ],
)
def test_a_setting_under_both_names_is_refused(config: dict[str, Any], both: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=f"config.yaml: {both} are the old and the new name"):
        load_config(PipelineConfig, written(tmp_path, config))


def test_new_names_say_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "thumbs"):
        load_config(PipelineConfig, written(tmp_path, NEW), ["labels.label_noise=0.2", "ppo.reward=[]"])
    assert not caplog.records


@pytest.mark.parametrize(
    ("old", "new"),
    [("reward", "reward_model"), ("iteration-2/preferences", "iteration-2/labels"), ("ppo", "ppo"), ("sft", "sft")],
)
def test_a_stage_has_its_new_name(old: str, new: str):
    assert current_place(old) == new


@pytest.mark.parametrize(("old", "new"), COMMANDS.items())
def test_an_old_command_is_the_new_one(old: str, new: str):
    helps = [CliRunner().invoke(app, [name, "--help"]).stdout for name in (old, new)]
    assert helps[0].replace(f"root {old} [", f"root {new} [") == helps[1]
