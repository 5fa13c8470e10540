"""summary.json holds, under stable names, what the stages' done.json say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from thumbs.pipeline.summary import summarise

SYSTEM = {"gold": 0.2, "proxy": 0.1, "kl": 0.0, "length": 20.0, "distinct2": 0.8, "truncated": 0.0, "n": 4}
AUDIT = {
    "accuracy": 0.9, "accuracy_low": 0.8, "accuracy_high": 0.95, "n": 60, "ties": 3,
    "loss": 0.3, "ece": 0.05, "length_correlation": -0.1, "length_gap_correlation": 0.0, "bins": [],
}  # fmt: skip
EVALUATION = {
    "systems": {
        "base": {**SYSTEM, "gold": -0.1},
        "sft": SYSTEM,
        "ppo": {**SYSTEM, "gold": 0.7, "kl": 5.0, "length": 25.0, "distinct2": 0.6},
        "best_of_n": {**SYSTEM, "gold": 0.4},
    },
    "win_rates": {"ppo": {"rate": 0.75, "low": 0.6, "high": 0.9, "n": 4}},
}
DONE = {
    "sft": {"heldout_loss": 1.5, "time_s": 10.0},
    "labels": {"pairs": 70, "time_s": 4.0},
    "reward_model": {"audit": AUDIT, "time_s": 5.0},
    "ppo": {"steps": 2, "last": {}, "time_s": 20.0},
    "evaluation": {**EVALUATION, "time_s": 1.0},
}


def run_of(folder: Path, done: dict[str, dict[str, Any]]) -> Path:
    for stage, results in done.items():
        (folder / stage).mkdir()
        (folder / stage / "done.json").write_text(json.dumps(results), encoding="utf-8")
    return folder


def test_every_number_has_its_name(tmp_path: Path):
    summary = summarise(run_of(tmp_path, DONE), peak_rss=3 * 2**30)
    expected = {
        "sft.heldout_loss": 1.5,
        "reward.heldout_accuracy": 0.9,
        "reward.heldout_accuracy_low": 0.8,
        "reward.heldout_accuracy_high": 0.95,
        "reward.heldout_pairs": 60,
        "reward.ece": 0.05,
        "reward.length_correlation": -0.1,
        "base.gold": -0.1,
        "sft.gold": 0.2,
        "ppo.gold": 0.7,
        "ppo.proxy": 0.1,
        "ppo.kl": 5.0,
        "best_of_n.gold": 0.4,
        "ppo.win_rate": 0.75,
        "ppo.win_rate_low": 0.6,
        "ppo.win_rate_high": 0.9,
        "ppo.length_ratio": 1.25,
        "ppo.distinct2_ratio": 0.75,
        "time_s.sft": 10.0,
        "time_s.ppo": 20.0,
        "compute_s": 40.0,
        "peak_rss_gib": 3.0,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("until", [0, 1, 2, 3])
def test_stages_that_did_not_run_leave_no_names(until: int, tmp_path: Path):
    done = dict(list(DONE.items())[:until])
    summary = summarise(run_of(tmp_path, done), peak_rss=0)
    assert {name.partition(".")[2] for name in summary if name.startswith("time_s.")} == set(done)
    assert not any(name.startswith(("ppo.", "base.", "best_of_n.")) for name in summary)
    assert ("reward.heldout_accuracy" in summary) == ("reward_model" in done)


def test_no_heldout_pairs_leave_no_accuracy(tmp_path: Path):
    summary = summarise(run_of(tmp_path, {"reward_model": {"pairs": 3, "time_s": 1.0}}), peak_rss=0)
    assert [name for name in summary if name.startswith("reward.")] == []


def test_an_evaluation_without_ppo_has_no_win_rate(tmp_path: Path):
    systems = {name: system for name, system in EVALUATION["systems"].items() if name != "ppo"}
    done = {"evaluation": {"systems": systems, "win_rates": {}, "time_s": 1.0}}
    summary = summarise(run_of(tmp_path, done), peak_rss=0)
    assert summary["best_of_n.gold"] == 0.4
    assert not any(name.startswith("ppo.") for name in summary)


def test_a_resumed_run_keeps_the_larger_peak(tmp_path: Path):
    (tmp_path / "summary.json").write_text('{"peak_rss_gib": 2.5}', encoding="utf-8")
    assert summarise(tmp_path, peak_rss=2**30)["peak_rss_gib"] == 2.5
    assert summarise(tmp_path, peak_rss=3 * 2**30)["peak_rss_gib"] == 3.0


def test_a_real_run_has_the_names_that_the_demonstration_promises(tiny_run: Path):
    summary = json.loads((tiny_run / "summary.json").read_text(encoding="utf-8"))
    promised = {
        "reward.heldout_accuracy", "sft.gold", "ppo.gold", "ppo.proxy", "best_of_n.gold", "ppo.kl",
        "ppo.length_ratio", "ppo.distinct2_ratio", "ppo.win_rate", "time_s.sft", "time_s.labels",
        "time_s.reward_model", "time_s.ppo", "time_s.evaluation", "peak_rss_gib",
    }  # fmt: skip
    assert promised - set(summary) == set()
    assert all(math.isfinite(summary[name]) for name in promised - {"reward.heldout_accuracy"})
