"""What an exported model says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from thumbs.pipeline.artifacts import export
from thumbs.pipeline.model_card import model_card
from thumbs.tracking import write_json


def test_the_card_has_front_matter_settings_and_what_was_measured(tiny_run: Path, tmp_path: Path):
    card = (export(tiny_run, "ppo", tmp_path / "out", form="hf") / "README.md").read_text(encoding="utf-8")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["rlhf", "thumbs", "ppo"],
    }
    assert "`byte-tiny`, a byte model that thumbs makes from the seed 0," in body
    for name in ("demonstrations.jsonl", "pairs.jsonl", "prompts.jsonl"):
        assert f"{name}`\n" in body
    settings = yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])
    assert list(settings) == ["model", "sft", "labels", "reward_model", "ppo", "seed"]
    assert settings["ppo"]["steps"] == 2
    assert "`ppo.win_rate`" in body
    assert "`sft.gold`" in body


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_json(
        tmp_path / "config.json", {"model": {"name": "m"}, "seed": 3, "sft": {"epochs": 2}, "group": {"steps": 3}}
    )
    return tmp_path


def test_numbers_are_those_of_the_stage(run: Path):
    numbers = {"group.gold": 0.51234, "group.win_rate": 0.7, "sft.gold": 0.25, "ppo.gold": 0.9}
    intervals = {"group.win_rate_low": 0.61, "group.win_rate_high": 0.79}
    write_json(run / "summary.json", numbers | intervals)
    card = model_card(run, "group", form="peft")
    assert "| `group.gold` | 0.512 |" in card
    assert "| `group.win_rate` | 0.7 (0.61 to 0.79) |" in card
    assert "| `sft.gold` | 0.25 |" in card
    assert "ppo" not in card
    assert "PEFT adapter" in card


def test_without_an_evaluation_the_card_says_so(run: Path):
    assert "nothing is known of its quality" in model_card(run, "sft", form="hf")
    assert "steps: 3" not in model_card(run, "sft", form="hf")  # what came later did not shape it


def test_a_reward_model_has_numbers_of_its_own(run: Path):
    write_json(run / "summary.json", {"reward.heldout_accuracy": 0.81, "reward.ece": 0.04, "sft.gold": 0.3})
    card = model_card(run, "reward_model", form="peft")
    assert "| `reward.heldout_accuracy` | 0.81 |" in card
    assert "sft.gold" not in card


@pytest.mark.parametrize("merged", [True, False])
def test_the_base_is_named_as_the_hub_names_it(
    merged: bool, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("THUMBS_CACHE", str(tmp_path / "cache"))
    data = {"path": [{"path": "hub:org/rows@main:train"}, "mine.jsonl"]}
    write_json(run / "config.json", {"model": {"name": "smollm2-135m"}, "seed": 3, "sft": {"data": data}})
    card = model_card(run, "sft", form="hf" if merged else "peft")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["base_model_relation"] == ("finetune" if merged else "adapter")
    assert front["datasets"] == ["org/rows"]
    assert "* `sft.data.path`: `mine.jsonl`" in card
