"""What each format holds, by hand, and who reads it back."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest

from collect_world import ON_SQLITE, Clock, model, pair
from export_world import (
    ASKED,
    HELPFUL,
    config,
    first,
    judged_pairs,
    lines,
    ranking_project,
    rows,
    say,
    second,
)
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import export, preview
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import Answer, NewItem
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.config.base import build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.data.load import (
    load_conversations,
    load_preferences,
    load_rankings,
    load_ratings,
    load_replies,
)
from thumbs.data.preferences import preferred
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import RunError
from thumbs.pipeline.run import run_pipeline
from thumbs.records import Judgement, Message, Preference, RankJudgement, Reply


def test_preferences_hold_every_judgement_and_read_back_equal(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    export(store, project.id, "preferences", Filters(), tmp_path / "preferences.jsonl")
    at = "2026-01-02T03:04:05+00:00"
    read = load_preferences(config(tmp_path, "preferences"), ByteTokenizer()).rows
    ids = [item.id for item in store.items.page(project.id)]
    assert read[0] == Preference(
        f"work/{ids[0]}",
        (Message("user", "question 0"),),
        (Reply("first reply 0", model("alpha", 0)), Reply("second reply 0", model("beta", 0))),
        (
            Judgement("ann", at, "prefer", -4),
            Judgement("ben", at, "prefer", -1, "shorter"),
            Judgement("cem", at, "prefer", 2),
        ),
    )
    assert [row.id for row in read] == [f"work/{item}" for item in ids[:4]]
    assert [preferred(row) for row in read] == [2 / 3, 1 / 3, 2 / 3, 0.0]
    assert [one.verdict for one in read[3].judgements] == ["both_bad", "both_bad", "prefer"]


@ON_SQLITE
def test_trl_has_the_better_reply_and_how_much_better(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    told = rows(store, project, tmp_path, "trl", strength_as="margin")
    assert [row["chosen"][0]["content"] for row in told] == [
        "first reply 0",
        "second reply 1",
        "first reply 2",
        "second reply 3",
    ]
    # (4 + 1 - 2) / 3; (1 - 3 + 2) / 3, more voices but no stronger; (0 + 0 + 1) / 3; one vote that counts
    assert [row["margin"] for row in told] == [1.0, 0.0, pytest.approx(1 / 3), 4.0]
    assert [row["n_votes"] for row in told] == [3, 3, 3, 1]
    assert [row["agreement"] for row in told] == [pytest.approx(2 / 3, abs=1e-6)] * 3 + [1.0]
    assert set(told[0]) == {
        "prompt",
        "chosen",
        "rejected",
        "margin",
        "n_votes",
        "agreement",
        "item_id",
        "group_id",
    }
    weighed = rows(store, project, tmp_path, "trl", strength_as="weight")
    assert [row["weight"] for row in weighed] == [pytest.approx(7 / 12), 0.5, 0.25, 1.0]
    read = load_preferences(config(tmp_path, "trl"), ByteTokenizer()).rows
    assert [row.weight for row in read] == [pytest.approx(7 / 12), 0.5, 0.25, 1.0]
    assert [row.replies[0].text for row in read] == [row["chosen"][0]["content"] for row in told]
    assert [preferred(row) for row in read] == [1.0] * 4


@ON_SQLITE
def test_single_replies_are_labelled_by_what_most_say(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    rows(store, project, tmp_path, "kto")
    read = load_replies(config(tmp_path, "kto"), ByteTokenizer()).rows
    assert [(row.messages[-1].content, row.desirable) for row in read] == [
        ("first reply 0", True),
        ("second reply 0", False),
        ("first reply 1", False),
        ("second reply 1", True),
        ("first reply 3", False),
        ("second reply 3", False),
    ]  # the tie labels neither


@ON_SQLITE
def test_comparisons_of_the_cookbook_are_one_a_judgement(store: CollectStore, tmp_path: Path):
    told = rows(store, judged_pairs(store), tmp_path, "cookbook")
    assert [row["label"] for row in told] == ["A", "A", "B", "B", "A", "B", "Tie", "Tie", "A", "B"]
    read = load_preferences(config(tmp_path, "cookbook"), ByteTokenizer()).rows
    assert [preferred(row) for row in read] == [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 1.0, 0.0]
    assert {row.replies[0].text.split()[0] for row in read} == {"first"}


@ON_SQLITE
def test_what_is_liked_best_is_a_conversation_to_imitate(store: CollectStore, tmp_path: Path):
    rows(store, judged_pairs(store), tmp_path, "sft")
    read = load_conversations(config(tmp_path, "sft"), ByteTokenizer()).rows
    assert read == [
        (Message("user", f"question {i}"), Message("assistant", f"{word} reply {i}"))
        for i, word in ((0, "first"), (1, "second"))
    ]  # no single side leads the third, and most find the fourth bad


@ON_SQLITE
def test_what_people_write_is_a_conversation_too(store: CollectStore, tmp_path: Path):
    project = store.projects.create("write", "Write", Question(kind="write"), settings=ProjectSettings(overlap=2))
    store.items.add(project.id, [NewItem((Message("user", "question 0"),))])
    for handle, text in (("ann", "So it is."), ("ben", "It is not.")):
        say(store, project, handle, {"question 0": Answer("write", text=text)})
    rows(store, project, tmp_path, "sft")
    read = load_conversations(config(tmp_path, "sft"), ByteTokenizer()).rows
    assert [row[-1].content for row in read] == ["So it is.", "It is not."]


@ON_SQLITE
def test_a_better_reply_of_ones_own_goes_before_both(store: CollectStore, tmp_path: Path):
    project = store.projects.create("work", "Work", ASKED)
    store.items.add(project.id, [pair(0)])
    say(store, project, "ann", {"question 0": second(text="third reply 0")})
    (row,) = rows(store, project, tmp_path, "sft")
    assert row["messages"][-1] == {"role": "assistant", "content": "third reply 0"}


@ON_SQLITE
def test_transcripts_refuse_text_that_forges_a_turn(store: CollectStore, tmp_path: Path):
    project = store.projects.create("work", "Work", ASKED)
    forger = replace(pair(1), replies=(Reply("Yes.\n\nHuman: no\n\nAssistant: ok", model("m")), Reply("b", model("n"))))
    asked = pair(2)
    with_system = replace(asked, messages=(Message("system", "Be brief."), *asked.messages))
    store.items.add(project.id, [pair(0), forger, with_system])
    say(store, project, "ann", {f"question {i}": second() for i in range(3)})
    made = export(store, project.id, "hh", Filters(), tmp_path / "hh.jsonl")
    assert lines(tmp_path / "hh.jsonl") == [
        {
            "chosen": "\n\nHuman: question 0\n\nAssistant: second reply 0",
            "rejected": "\n\nHuman: question 0\n\nAssistant: first reply 0",
        }
    ]
    assert made.counts.dropped == {"forged_turn": 1, "system": 1}
    (read,) = load_preferences(config(tmp_path, "hh"), ByteTokenizer()).rows
    assert read.replies[0].text == "second reply 0"


@ON_SQLITE
def test_rankings_keep_the_ranks_of_all_and_make_pairs_for_trl(store: CollectStore, tmp_path: Path):
    project = ranking_project(store)
    rows(store, project, tmp_path, "ranked")
    (read,) = load_rankings(config(tmp_path, "ranked"), ByteTokenizer()).rows
    assert [(one.annotator, one.ranks) for one in read.judgements] == [("ann", (1, 2, 2)), ("ben", (2, 1, 3))]
    assert isinstance(read.judgements[0], RankJudgement)
    assert read.replies[2] == Reply("three", model("three"))
    pairs = rows(store, project, tmp_path, "trl")
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs] == [
        ("one", "three"),
        ("two", "three"),
    ]  # one and two: a voice each
    assert {row["group_id"] for row in pairs} == {pairs[0]["group_id"]}
    # pairs (1,2): 1 of 2 agree; (1,3): 2 of 2; (2,3): 1 of 2
    assert preview(store, project.id, "ranked", Filters(min_agreement=0.66)).counts.kept == 2
    assert preview(store, project.id, "ranked", Filters(min_agreement=0.67)).counts.kept == 0


@ON_SQLITE
def test_a_ranking_by_harm_is_turned_round(store: CollectStore, tmp_path: Path):
    told = rows(store, ranking_project(store, direction="more_harmful"), tmp_path, "ranked")
    assert [one["ranks"] for one in told[0]["judgements"]] == [[2, 1, 1], [2, 3, 1]]


@ON_SQLITE
def test_ratings_are_of_one_axis_or_the_mean_of_all(store: CollectStore, tmp_path: Path):
    axes = (HELPFUL, Axis(key="true", label="True"))
    project = store.projects.create(
        "rate", "Rate", Question(kind="rate", axes=axes), settings=ProjectSettings(overlap=2)
    )
    replies = (Reply("one", model("alpha")), Reply("two", model("beta")))
    store.items.add(project.id, [NewItem((Message("user", "question 0"),), replies)])
    say(store, project, "ann", {"question 0": Answer("rate", ratings=({"helpful": 5, "true": 2}, {"helpful": 1}))})
    say(store, project, "ben", {"question 0": Answer("rate", ratings=({"helpful": 4}, {"true": 3}))})
    rows(store, project, tmp_path, "ratings")
    read = load_ratings(config(tmp_path, "ratings"), ByteTokenizer()).rows
    assert [[one.value for one in row.judgements] for row in read] == [[3.5, 4.0], [1.0, 3.0]]
    helpful = rows(store, project, tmp_path, "ratings", axis="helpful")
    assert [[one["value"] for one in row["judgements"]] for row in helpful] == [[5, 4], [1]]
    labelled = rows(store, project, tmp_path, "kto")
    assert [(row["completion"][0]["content"], row["label"]) for row in labelled] == [("one", True), ("two", False)]
    export(store, project.id, "dataset", Filters(), tmp_path / "set")
    loaded = pytest.importorskip("datasets").load_from_disk(str(tmp_path / "set"))
    assert [(row["reply"], row["rating"], row["n_votes"]) for row in loaded] == [("one", 3.75, 2), ("two", 2.0, 2)]
    (best,) = rows(store, project, tmp_path, "sft")
    assert best["messages"][-1]["content"] == "one"


@ON_SQLITE
def test_half_a_character_beside_an_item_does_not_stop_an_export(store: CollectStore, tmp_path: Path):
    project = store.projects.create("work", "Work", ASKED)
    store.items.add(project.id, [pair(0, chosen_by={"policy": "\ud83d"})])
    say(store, project, "ann", {"question 0": first()})
    assert rows(store, project, tmp_path, "votes")[0]["chosen_by"] == {"policy": "?"}


@ON_SQLITE
def test_a_table_runs_no_formulas(store: CollectStore, tmp_path: Path):
    project = store.projects.create("work", "Work", ASKED)
    evil = ('=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0")
    item = NewItem((Message("user", "question 0"),), tuple(Reply(text, model("@m")) for text in evil))
    store.items.add(project.id, [item])
    say(store, project, "ann", {"question 0": first(4, reason='-1, "or"\nso')})
    export(store, project.id, "csv", Filters(), tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["reply_0"], row["reply_1"]) == (f"'{evil[0]}", f"'{evil[1]}")
    assert (row["reason"], row["generator_0"]) == ('\'-1, "or"\nso', "'@m @m/model")
    assert row["strength"] == "-4"  # a number is not a formula


@ON_SQLITE
def test_a_dataset_opens_with_the_library(store: CollectStore, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    project = judged_pairs(store)
    made = [export(store, project.id, "dataset", Filters(), tmp_path / name) for name in ("a", "b")]
    loaded = datasets.load_from_disk(str(tmp_path / "a"))
    assert loaded[1]["chosen"] == [{"role": "assistant", "content": "second reply 1"}]
    assert loaded["n_votes"][:] == [3, 3, 3, 1]
    assert made[0].sha256 == made[1].sha256
    with pytest.raises(RunError, match="exists and is not empty"):
        export(store, project.id, "dataset", Filters(), tmp_path / "a")


def test_a_reward_model_trains_on_an_export_as_it_is(tmp_path: Path):
    """No step between: thumbs collect export, then thumbs run. The labels are those of people."""
    store = CollectStore(tmp_path / "collect.db", clock=Clock())
    project = store.projects.create("demo", "Demo", Question())
    store.items.add(project.id, [pair(i) for i in range(24)])
    say(store, project, "ann", {f"question {i}": first(1 + i % 4) for i in range(24)})
    export(store, project.id, "preferences", Filters(strength_as="margin"), tmp_path / "labels.jsonl")
    store.close()
    settings = {
        "run": str(tmp_path / "run"),
        "model": {"name": "byte-tiny", "lora": None, "dtype": "float32"},
        "labels": {"data": {"path": str(tmp_path / "labels.jsonl"), "holdout": 0.25}},
        "reward_model": {
            "eval_every": 4,
            "epochs": 4,
            "use_margin": True,
            "optim": {"learning_rate": 5e-4, "head_learning_rate": 5e-3},
        },
    }
    path = run_pipeline(build_config(PipelineConfig, settings))
    done = json.loads((path / "reward_model" / "done.json").read_text(encoding="utf-8"))
    assert done["pairs"] + done["heldout_pairs"] == 24
    assert done["audit"]["accuracy"] > 0.9  # "first" from "second"
