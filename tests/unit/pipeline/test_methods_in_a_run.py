"""Every method as a stage of a run, and runs of several iterations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from tiny_run_settings import tiny_settings

from thumbs.config.base import build_config
from thumbs.config.pipeline import METHODS, PipelineConfig
from thumbs.errors import ConfigError
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Example, Rollout
from thumbs.report.build import build_report
from thumbs.report.compare import build_comparison, compare
from thumbs.tracking.files import read_json

SAMPLING = {"max_new_tokens": 4}


def last_byte(rollout: Rollout) -> float:
    """A reward that differs between replies of an untrained model."""
    return float(rollout.tokens[-1] % 7)


def with_methods(settings: dict[str, Any]) -> dict[str, Any]:
    prompts = settings["ppo"]["prompts"]
    return settings | {
        "direct": {"method": "simpo", "batch_size": 4},
        "group": {
            "prompts": prompts,
            "method": "rloo",
            "steps": 2,
            "batch_size": 4,
            "minibatch_size": 4,
            "group_size": 2,
            "sampling": SAMPLING,
        },
        "rejection": {"prompts": prompts, "rounds": 1, "replies_per_prompt": 2, "sampling": SAMPLING},
    }


def test_all_methods_start_from_sft_and_are_judged_together(tmp_path: Path):
    settings = with_methods(tiny_settings(tmp_path))
    # Nearly nothing is far away for two steps of a tiny model: a level that KL's estimate passes at once.
    settings["evaluation"] |= {"frontier": [1e-9]}
    path = run_pipeline(build_config(PipelineConfig, settings))
    results, summary = read_json(path / "evaluation" / "results.json"), read_json(path / "summary.json")
    assert {"base", "sft", "best_of_n", *METHODS} <= set(results["systems"])
    on_their_way = [name for name in results["systems"] if "@" in name]
    assert all(name.endswith("@1e-09") for name in on_their_way)
    assert set(results["win_rates"]) == set(METHODS)
    assert all(0 <= summary[f"{method}.win_rate"] <= 1 for method in METHODS)
    assert {f"time_s.{method}" for method in METHODS} <= set(summary)
    page = build_report(path).read_text(encoding="utf-8")
    for title in ("Direct alignment", "PPO", "Group", "Rejection sampling"):
        assert f"<h2>{title}</h2>" in page
    assert {curve.name for curve in compare([path])} == {*METHODS, "best of n"}


def test_an_iteration_starts_from_the_policy_of_the_one_before(tmp_path: Path):
    settings = tiny_settings(tmp_path)
    prompts = settings["ppo"]["prompts"]
    settings = {
        **{key: settings[key] for key in ("run", "model", "system", "fixed_prompts")},
        "iterations": 3,
        "group": with_methods(tiny_settings(tmp_path))["group"]
        | {"prompts": prompts, "reward": [{"function": f"{__name__}:last_byte"}]},
    }
    path = run_pipeline(build_config(PipelineConfig, settings), until="group")
    opened = open_run(path)
    data = [Example.next_token(list(b"some text"), weights=[1.0] * 8)]
    seen = [
        opened.engine.forward(opened.model(stage), data)[0].logprobs
        for stage in ("base", "group", "iteration-2/group", "iteration-3/group")
    ]
    moved = [abs(after - before).max() for before, after in itertools.pairwise(seen)]
    assert min(moved) > 0
    # Adam moves each weight by its rate a step: from the start the third policy is farther than the first.
    assert abs(seen[3] - seen[0]).max() > moved[0]
    assert not (path / "sft").exists()
    again = run_pipeline(build_config(PipelineConfig, settings), until="group")  # all is done already
    assert again == path


def test_pairs_of_all_iterations_train_the_reward_model(tmp_path: Path):
    settings = tiny_settings(tmp_path)
    settings |= {
        "iterations": 2,
        # Half of the annotator's choices are noise, so the replies of an untrained model do not all tie.
        "labels": {"prompts": settings["ppo"]["prompts"], "tie_below": 0.0, "sampling": SAMPLING},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thumbs.evaluation.judges.vader", lambda _, reply: float(sum(reply.encode())))
        path = run_pipeline(build_config(PipelineConfig, settings), until="ppo")
    first, second = (read_json(path / place / "done.json") for place in ("reward_model", "iteration-2/reward_model"))
    added = read_json(path / "iteration-2" / "labels" / "done.json")["pairs"]
    assert added > 0
    assert second["pairs"] > first["pairs"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iterations": 2}, "labels.data: a file has nothing to say of the new policy"),
        ({"iterations": 2, "ppo": None}, "needs exactly one method, whose policy goes on; got none"),
    ],
)
def test_iterations_that_cannot_be_are_refused_at_once(tmp_path: Path, changes: dict[str, Any], words: str):
    config = build_config(PipelineConfig, tiny_settings(tmp_path) | changes)
    with pytest.raises(ConfigError, match=words):
        run_pipeline(config)
    assert not Path(config.run).exists()


def test_a_run_without_a_reward_model_is_judged_by_gold_alone(tmp_path: Path):
    settings = with_methods(tiny_settings(tmp_path))
    for section in ("reward_model", "ppo", "group", "rejection"):
        settings[section] = None
    path = run_pipeline(build_config(PipelineConfig, settings))
    systems = read_json(path / "evaluation" / "results.json")["systems"]
    assert set(systems) == {"base", "sft", "direct"}  # no best of n: nothing chooses
    assert all(system["proxy"] is None for system in systems.values())
    assert "direct.win_rate" in read_json(path / "summary.json")
    assert "<h2>Direct alignment</h2>" in build_report(path).read_text(encoding="utf-8")
    (curve,) = compare([path])
    assert curve.name == "direct"
    assert build_comparison([path], tmp_path / "page.html")


def test_rules_alone_reward_every_method_that_samples(tmp_path: Path):
    settings = with_methods(tiny_settings(tmp_path))
    rule = [{"function": f"{__name__}:last_byte"}]
    prompts = settings["ppo"]["prompts"]
    for section in ("sft", "labels", "reward_model"):
        settings[section] = None
    for section in ("ppo", "group", "rejection"):
        settings[section] |= {"reward": rule}
    online = {"prompts": prompts, "steps": 2, "reward": rule, "sampling": SAMPLING}
    settings["direct"] = {"method": "online_dpo", "batch_size": 4, "online": online}
    path = run_pipeline(build_config(PipelineConfig, settings))
    systems = read_json(path / "evaluation" / "results.json")["systems"]
    assert set(METHODS) <= set(systems)
    assert all(0 <= system["proxy"] <= 6 for system in systems.values())  # what the rule says: a byte modulo 7
    kept = read_json(path / "rejection" / "round-1.json")
    assert kept["metrics"]["rejection/kept_score"] >= kept["metrics"]["rejection/score"]
