"""Runs whose prompts and replies are filtered: what is dropped, counted and written down, in every method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError, DataError, RunError
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Rollout
from thumbs.safety.filters import RuleFilter
from thumbs.tracking.run_folder import StageFolder

SEEN: list[Rollout] = []


def odd_length(config: object) -> RuleFilter:
    """Finds something in about one in six replies of noise, and in the prompt Ana."""
    return RuleFilter(_why)


def _why(text: str) -> str | None:
    if text.startswith("Greet."):
        return "named" if text.endswith("Ana") and "Hana" not in text else None
    return "long" if len(text.encode()) % 6 == 5 else None


def no(config: object) -> RuleFilter:
    return RuleFilter(lambda text: None if text.startswith("Greet.") else "nothing may be said")


def score(rollout: Rollout) -> float:
    SEEN.append(rollout)
    return float(len(rollout.text) % 3)


ROUNDS: dict[str, Any] = {
    "steps": 4,
    "batch_size": 8,
    "minibatch_size": 4,
    "optim": {"learning_rate": 1e-3, "schedule": "constant", "warmup_fraction": 0.0},
    "sampling": {"max_new_tokens": 6},
    "reward": [{"function": f"{__name__}:score"}],
    "save_every": 1,
}
METHODS: dict[str, dict[str, Any]] = {
    "ppo": {**ROUNDS, "epochs": 1, "critic": {"init": "policy"}},
    "group": {**ROUNDS, "group_size": 2},
    "rejection": {
        "rounds": 3,
        "replies_per_prompt": 2,
        "batch_size": 4,
        "sampling": {"max_new_tokens": 6},
        "reward": ROUNDS["reward"],
    },
    "direct": {
        "method": "online_dpo",
        "batch_size": 4,
        "online": {"steps": 4, "sampling": {"max_new_tokens": 6}, "reward": ROUNDS["reward"]},
    },
}


def config_of(folder: Path, method: str, name: str = "odd_length", **changes: Any) -> PipelineConfig:
    folder.mkdir(exist_ok=True)
    whole = tiny_settings(folder)
    settings = {key: whole[key] for key in ("run", "model", "system", "sft")}
    section = {**METHODS[method], **changes}
    if method == "direct":
        section["online"] = {**section["online"], "prompts": whole["ppo"]["prompts"]}
    else:
        section["prompts"] = whole["ppo"]["prompts"]
    filters = {"safety": {"filters": [f"{__name__}:{name}"]}} if name else {}
    return build_config(PipelineConfig, settings | {method: section} | filters)


@pytest.mark.parametrize(
    ("method", "metric"), [("direct", "preference"), *((name, name) for name in ("ppo", "group", "rejection"))]
)
def test_what_is_filtered_is_dropped_counted_and_a_row(tmp_path: Path, method: str, metric: str):
    SEEN.clear()
    folder = StageFolder(run_pipeline(config_of(tmp_path, method)) / method)
    rows, found = folder.filtered.read(), [r for r in SEEN if len(r.text.encode()) % 6 == 5]
    prompts, replies = ([row for row in rows if row["place"] == place] for place in ("prompt", "reply"))
    assert [(row["step"], row["reason"], row["text"]) for row in prompts] == [(0, "named", "Greet.\nAna")]
    assert "Ana" not in {rollout.messages[-2].content for rollout in SEEN}
    assert replies
    assert [(row["prompt_id"], row["text"]) for row in replies] == [(r.prompt_id, r.text) for r in found]
    assert {row["filter"] for row in rows} == {f"{__name__}:odd_length"}
    counted = {row["step"]: row[f"{metric}/filtered"] for row in folder.metrics.read()}
    assert sum(counted.values()) > 0
    if method != "rejection":
        steps = [row["step"] for row in replies]
        assert {step: float(steps.count(step)) for step in counted} == counted


def test_a_run_that_goes_on_has_the_rows_of_one_that_was_never_stopped(tmp_path: Path):
    whole = run_pipeline(config_of(tmp_path / "whole", "ppo"))
    path = run_pipeline(config_of(tmp_path / "parts", "ppo", steps=2))
    StageFolder(path / "ppo").filtered.append(3, {"place": "reply", "text": "of a step that was not kept"})
    run_pipeline(config_of(tmp_path / "parts", "ppo"))
    found = [StageFolder(each / "ppo").filtered.read() for each in (whole, path)]
    assert sorted(found[0], key=str) == sorted(found[1], key=str)


def test_filters_are_part_of_what_a_stage_is_and_the_gate_is_not(tmp_path: Path):
    config = config_of(tmp_path, "ppo")
    path = run_pipeline(config)
    begun = (path / "ppo" / "identity.json").read_bytes()
    assert config.safety is not None
    stricter = config.model_copy(update={"safety": config.safety.model_copy(update={"max_unsafe": 0.5})})
    run_pipeline(stricter)
    assert (path / "ppo" / "identity.json").read_bytes() == begun
    with pytest.raises(RunError, match=r"safety\.filters"):
        run_pipeline(config_of(tmp_path, "ppo", "no"))


def test_a_run_without_filters_is_what_it_was(tmp_path: Path):
    folder = StageFolder(run_pipeline(config_of(tmp_path, "ppo", "")) / "ppo")
    assert not folder.filtered.path.exists()
    assert "safety.filters" not in (folder.path / "identity.json").read_text()
    assert all("ppo/filtered" not in row for row in folder.metrics.read())


def test_a_step_of_which_nothing_is_left_stops_the_run_with_the_reason(tmp_path: Path):
    with pytest.raises(DataError, match=r"leave none of \d+ replies.*nothing may be said"):
        run_pipeline(config_of(tmp_path, "ppo", "no"))


def test_a_filter_that_is_none_is_refused_before_anything_runs(tmp_path: Path):
    config = config_of(tmp_path, "ppo", "nobody")
    with pytest.raises(ConfigError, match="nobody"):
        run_pipeline(config)
    assert not (tmp_path / "run").exists()
