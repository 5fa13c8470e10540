"""What a report says of labels that people gave, and what it does not claim on few of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thumbs.report.build import build_report
from thumbs.report.headline import headline_rows, labels_sentence
from thumbs.report.record import RunRecord, read_run
from thumbs.tracking.files import write_json

DEMONSTRATION = {
    "sft": {"data": {"path": "builtin:demonstrations"}},
    "labels": {"prompts": {"path": "builtin:prompts_train"}},
    "reward_model": {},
    "evaluation": {"prompts": {"path": "builtin:prompts_heldout"}},
}


def run(
    folder: Path,
    summary: dict[str, Any],
    *stages: tuple[str, dict[str, Any]],
    iterations: int = 1,
    builtin: bool = False,
) -> RunRecord:
    write_json(folder / "config.json", {"iterations": iterations, "ppo": {}, **(DEMONSTRATION if builtin else {})})
    write_json(folder / "summary.json", summary)
    for place, done in stages:
        write_json(folder / place / "done.json", done)
    return read_run(folder)


def told(pairs: int, **by: int) -> dict[str, Any]:
    return {"pairs": pairs, "labels": sum(by.values()), "by": by}


AUDIT = {
    **{"accuracy": 0.75, "accuracy_low": 0.409, "accuracy_high": 0.929, "n": 8, "ties": 0, "loss": 0.6, "ece": 0.2},
    **{"length_correlation": 0.1, "length_gap_correlation": 0.1, "bins": []},
}


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (told(30, ann=30), "30 labels by 1 person."),
        (told(30, ann=30, ben=25), "55 labels by 2 people, of 30 pairs."),
        (told(1, ann=1), "1 label by 1 person."),
    ],
)
def test_labels_are_counted_and_so_are_people(tmp_path: Path, labels: dict[str, Any], sentence: str):
    assert labels_sentence(run(tmp_path, {}, ("labels", labels))) == sentence


def test_the_last_reward_model_is_named_with_its_interval(tmp_path: Path):
    stages = [
        ("labels", told(30, ann=30)),
        ("reward_model", {"audit": {**AUDIT, "n": 7}}),
        ("iteration-2/labels", told(20, ann=10, ben=10)),
        ("iteration-2/reward_model", {"audit": AUDIT}),
    ]
    record = run(tmp_path, {}, *stages, iterations=2)
    said = "The reward model orders 75 % of 8 held-out pairs as they do (95 % interval 41 % to 93 %)."
    assert labels_sentence(record) == f"50 labels by 2 people. {said}"
    assert said in build_report(tmp_path).read_text(encoding="utf-8")


def test_simulated_labels_are_not_called_peoples(tmp_path: Path):
    assert labels_sentence(run(tmp_path, {}, ("labels", {"pairs": 30, "ties": 0.0}))) == ""


@pytest.mark.parametrize(
    ("accuracy", "low", "high", "pairs", "met", "wanted"),
    [
        (0.875, 0.529, 0.978, 8, None, "at least 0.800"),
        (0.75, 0.409, 0.929, 8, None, "at least 0.800"),
        (1.0, 0.839, 1.0, 20, True, "at least 0.800"),
        (0.5, 0.299, 0.701, 20, False, "at least 0.800"),
        (0.85, 0.79, 0.89, 188, None, "at least 0.800"),
        (0.85, 0.81, 0.89, 188, True, "at least 0.800"),
        (0.78, 0.72, 0.83, 188, None, "at least 0.800"),
        (0.74, 0.68, 0.79, 188, False, "at least 0.800"),
    ],
)
def test_nothing_is_met_unless_the_interval_says_so(
    tmp_path: Path, accuracy: float, low: float, high: float, pairs: int, met: bool | None, wanted: str
):
    values = {"": accuracy, "_low": low, "_high": high}
    summary = {f"reward.heldout_accuracy{key}": value for key, value in values.items()}
    record = run(tmp_path, {**summary, "reward.heldout_pairs": pairs}, builtin=True)
    (row,) = [row for row in headline_rows(record) if row.name == "reward.heldout_accuracy"]
    assert (row.met, row.wanted, row.low, row.high) == (met, wanted, low, high)
    assert f"; {pairs} pairs." in row.meaning
    page = build_report(tmp_path).read_text(encoding="utf-8")
    told = {True: "✓ met", False: "✗ not met", None: "the interval cannot tell"}
    assert [word for word in told.values() if word in page] == [told[met]]


def test_without_an_interval_there_is_no_verdict(tmp_path: Path):
    summary = {"ppo.distinct2_ratio": 0.95, "ppo.kl": 2.0}
    record = run(tmp_path, summary, builtin=True)
    rows = {row.name: row for row in headline_rows(record)}
    assert {row.met for row in rows.values()} == {None}
    assert rows["ppo.distinct2_ratio"].wanted == "at least 0.800"
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert page.count("no interval, no verdict") == 2
    assert "met</span>" not in page


@pytest.mark.parametrize("path", ["sft.data", "labels.prompts", "evaluation.prompts"])
def test_what_the_demonstration_wants_is_asked_of_no_other_run(tmp_path: Path, path: str):
    summary = {"reward.heldout_accuracy": 0.9, "ppo.kl": 40.0}
    record = run(tmp_path, summary, builtin=True)
    assert any(row.wanted for row in headline_rows(record))
    section, key = path.split(".")
    own = {**DEMONSTRATION, "ppo": {}, section: {key: {"path": "mine.jsonl"}}}
    write_json(tmp_path / "config.json", own)
    assert not any(row.wanted or row.met is not None for row in headline_rows(read_run(tmp_path)))
    assert "the demonstration wants" not in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(("by_people", "wanted"), [(False, "at least 0.550"), (True, "")])
def test_nothing_is_wanted_of_a_gold_score_that_did_not_make_the_labels(tmp_path: Path, by_people: bool, wanted: str):
    labels = told(30, ann=30) if by_people else {"pairs": 30, "ties": 0.0}
    write_json(
        tmp_path / "evaluation" / "results.json",
        {"judge": "vader", "systems": {"sft": {"n": 9}, "ppo": {"gold_low": 0.6, "gold_high": 0.8}}},
    )
    record = run(tmp_path, {"sft.gold": 0.3, "ppo.gold": 0.7}, ("labels", labels), builtin=True)
    (row,) = [row for row in headline_rows(record) if row.name == "ppo.gold"]
    assert row.wanted == wanted
    assert row.met is (None if by_people else True)
