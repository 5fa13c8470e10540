"""Exports against hand-made judgements: what each filter leaves out, what the manifest tells, what comes again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from collect_world import ON_SQLITE, Clock, pair, person
from export_world import (
    ASKED,
    OPINIONS,
    TIE,
    fill,
    first,
    judged_pairs,
    lines,
    ranking_project,
    rows,
    say,
)
from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.exports.formats import _TABLE, FORMATS
from thumbs.collect.exports.select import Filters, Selection
from thumbs.collect.exports.write import export, export_again, kept_export, kept_exports, preview, record_export
from thumbs.collect.records import Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import (
    EXPORTS,
)


def test_the_manifest_tells_what_is_in_the_file(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    out = tmp_path / "made" / "x.jsonl"
    made = export(store, project.id, "preferences", Filters(drop_ties=True), out, by=store.people.find("ann").id)
    told = json.loads((tmp_path / "made" / "x.jsonl.manifest.json").read_text(encoding="utf-8"))
    assert told["sha256"] == made.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert told["counts"] == {
        "items": 4,
        "rows": 4,
        "read": 15,
        "kept": 10,
        "verdicts": {"both_bad": 2, "prefer": 8},
        "dropped": {"tie": 2, "skip": 3},
    }
    assert told["watermark"] == store.votes.watermark(project.id)
    assert told["filters"]["drop_ties"] is True
    assert told["questions"] == [
        {"version": 1, "sha256": store.projects.question(project.id)[0].sha256, "judgements": 10}
    ]
    assert told["guidelines"] == [{"version": 1, "sha256": hashlib.sha256(b"Be kind.").hexdigest(), "judgements": 10}]
    assert [(maker["name"], maker["replies"]) for maker in told["generators"]] == [("alpha", 4), ("beta", 4)]
    with store.db.reading() as db:
        (kept,) = db.execute(select(EXPORTS)).all()
    assert kept.manifest == told
    assert (kept.format, kept.watermark, kept.account_id) == (
        "preferences",
        made.watermark,
        store.people.find("ann").id,
    )
    event = store.audit.events(project.id)[0]
    assert (event.action, event.data["sha256"]) == ("export", made.sha256)
    assert sorted(path.name for path in out.parent.iterdir()) == ["x.jsonl", "x.jsonl.manifest.json"]


def kept_by(store: CollectStore, project: Project, **filters: Any) -> tuple[set[tuple[int, str]], dict[str, int]]:
    """(number of the pair, person) of every judgement that is left, and what was dropped, skips apart."""
    found = preview(store, project.id, "votes", Filters(**filters), n=99, most_items=None)
    counts = found.counts
    assert counts.read == counts.kept + sum(counts.dropped.values())
    dropped = {reason: number for reason, number in counts.dropped.items() if reason != "skip"}
    return {(int(row["name"]), row["annotator"]) for row in found.rows}, dropped


EVERY = {(i, who) for i in range(4) for who in OPINIONS}


@ON_SQLITE
@pytest.mark.parametrize(
    ("filters", "gone", "dropped"),
    [
        ({}, set(), {}),
        ({"min_strength": 2}, {(0, "ben"), (1, "ann"), (2, "cem")}, {"strength": 3}),
        ({"drop_ties": True}, {(2, "ann"), (2, "ben")}, {"tie": 2}),
        ({"exclude_people": ("ann", "cem")}, {(i, w) for i in range(4) for w in ("ann", "cem")}, {"person": 8}),
        ({"min_active_ms": 2000}, {(i, "ann") for i in range(4)}, {"fast": 4}),
        ({"chosen_by": "random"}, {(i, w) for i in (0, 2) for w in OPINIONS}, {"chosen_by": 6}),
        ({"chosen_by": "active"}, {(i, w) for i in (1, 3) for w in OPINIONS}, {"chosen_by": 6}),
        ({"per_person": 3}, {(3, w) for w in OPINIONS}, {"per_person": 3}),
        ({"min_active_ms": 2000, "min_judgements": 3}, EVERY, {"fast": 4, "judgements": 8}),
        ({"min_agreement": 0.7}, EVERY, {"agreement": 12}),
        ({"min_strength": 2, "min_agreement": 0.7}, EVERY - {(2, "ann"), (2, "ben")}, {"strength": 3, "agreement": 7}),
        (
            {"axis": "helpful", "aggregate": "first"},
            EVERY - {(0, "ann"), (3, "cem")},
            {"axis": 9, "aggregate": 1},
        ),
        ({"aggregate": "first"}, {(i, w) for i in range(4) for w in ("ben", "cem")}, {"aggregate": 8}),
    ],
)
def test_a_filter_leaves_out_what_it_says_and_counts_it(
    store: CollectStore, filters: dict[str, Any], gone: set[tuple[int, str]], dropped: dict[str, int]
):
    assert kept_by(store, judged_pairs(store), **filters) == (EVERY - gone, dropped)


def test_late_answers_and_other_versions_can_be_left_out(store: CollectStore, clock: Clock):
    project = store.projects.create("work", "Work", ASKED, settings=ProjectSettings(lease_s=60))
    store.items.add(project.id, [pair(i) for i in range(2)])
    ann = person(store, "ann")
    late = store.work.claim(project.id, ann)
    assert not isinstance(late, str)
    clock.forward(61)
    store.work.submit(late.assignment, ann, "late-key", {"verdict": "tie"})
    store.projects.ask(project.id, ASKED.model_copy(update={"text": "Which is kinder?"}))
    say(store, project, "ben", {f"question {i}": TIE for i in range(2)})
    assert kept_by(store, project) == ({(0, "ann"), (1, "ben")}, {})
    assert kept_by(store, project, exclude_late=True) == ({(1, "ben")}, {"late": 1})
    assert kept_by(store, project, question_version=2) == ({(1, "ben")}, {"question_version": 1})


@ON_SQLITE
def test_nothing_that_tests_people_is_exported_and_leaks_can_be_left_out(store: CollectStore):
    project = store.projects.create("work", "Work", ASKED, settings=ProjectSettings(gold_every=2))
    gold = [pair(i, role="gold", gold=first()) for i in (7, 8)]
    store.items.add(project.id, [pair(0, chosen_by={"leaks": [[0, "I am GPT-4"]]}), pair(1), *gold])
    say(store, project, "ann", {f"question {i}": TIE for i in (0, 1, 7, 8)})
    assert len(list(store.votes.all(project.id, roles=("gold",)))) == 2
    assert kept_by(store, project) == ({(0, "ann"), (1, "ann")}, {})
    assert kept_by(store, project, exclude_leaks=True) == ({(1, "ann")}, {"leaks": 1})


@ON_SQLITE
def test_a_choice_of_the_more_harmful_reply_is_turned_round(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store, ASKED.model_copy(update={"direction": "more_harmful"}))
    made = export(store, project.id, "preferences", Filters(), tmp_path / "preferences.jsonl")
    told = lines(tmp_path / "preferences.jsonl")
    assert made.turned
    assert [one["strength"] for one in told[0]["judgements"]] == [4, 1, -2]
    on_axis = rows(store, project, tmp_path, "preferences", axis="helpful")
    assert [one["strength"] for row in on_axis for one in row["judgements"]] == [2, 0, -1]  # helpful is helpful
    votes = rows(store, project, tmp_path, "votes")
    assert (votes[0]["answer"]["strength"], votes[0]["given"]["strength"], votes[0]["direction"]) == (
        4,
        -4,
        "more_harmful",
    )


@ON_SQLITE
def test_an_axis_takes_the_place_of_the_verdict(store: CollectStore, tmp_path: Path):
    told = rows(store, judged_pairs(store), tmp_path, "preferences", axis="helpful")
    said = [[(one["annotator"], one["verdict"], one["strength"]) for one in row["judgements"]] for row in told]
    assert said == [[("ann", "prefer", 2), ("ben", "tie", 0)], [("cem", "prefer", -1)]]


@ON_SQLITE
def test_a_majority_is_one_opinion_an_item(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    told = rows(store, project, tmp_path, "preferences", aggregate="majority")
    said = [(one["annotator"], one["verdict"], one["strength"]) for row in told for one in row["judgements"]]
    # 4 and 1 for the first: 2.5, the nearest even step; 1 and 2 for the second: 1.5
    assert said == [
        ("majority of 3", "prefer", -2),
        ("majority of 3", "prefer", 2),
        ("majority of 3", "tie", 0),
        ("majority of 3", "both_bad", 0),
    ]


def test_every_format_counts_each_judgement_once_and_comes_again_to_the_byte(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store, ASKED.model_copy(update={"flags": ("unsafe",)}))
    fit = [name for name, form in _TABLE.items() if "pair" in form.rows]
    assert set(fit) == set(FORMATS) - {"ratings"}
    before = {name: export(store, project.id, name, Filters(), tmp_path / name) for name in fit}
    for made in before.values():
        assert made.counts.read == 15 == made.counts.kept + sum(made.counts.dropped.values())
        assert sum(made.counts.verdicts.values()) == made.counts.kept
    ann = store.people.find("ann").id
    assignment = next(vote.assignment for vote in store.votes.all(project.id) if vote.account == ann)
    store.work.revise(assignment, ann, "revised-1", 1, {"verdict": "tie"})
    store.items.set_target(project.id, 4)
    say(store, project, "dan", {f"question {i}": TIE for i in range(5)})
    for name, made in before.items():
        again = export(store, project.id, name, Filters(), tmp_path / f"{name}-again", watermark=made.watermark)
        assert replace(again, file="") == replace(made, file="")
        newer = export(store, project.id, name, Filters(), tmp_path / f"{name}-newer")
        assert newer.sha256 != made.sha256
    with pytest.raises(CollectError, match="judgements to come"):
        export(store, project.id, "trl", Filters(), tmp_path / "x", watermark=10**6)


@ON_SQLITE
def test_a_preview_shows_the_first_rows_and_says_whether_it_saw_all(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    some = preview(store, project.id, "preferences", Filters(), n=2, most_items=3)
    assert [row["id"] for row in some.rows] == [row["id"] for row in rows(store, project, tmp_path, "preferences")][:2]
    assert (some.counts.read, some.whole) == (9, False)
    assert preview(store, project.id, "preferences", Filters()).whole


@ON_SQLITE
def test_what_fails_leaves_the_old_file(store: CollectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project = judged_pairs(store)
    out = tmp_path / "x.jsonl"
    export(store, project.id, "preferences", Filters(), out)
    before = out.read_bytes()
    with pytest.raises(CollectError, match=r"of 15 judgements none is left to export \(.*12 agreement"):
        export(store, project.id, "preferences", Filters(min_agreement=1.0), out)

    def breaks(*_: Any) -> Any:
        yield {"half": 1}
        raise RuntimeError("pulled")

    monkeypatch.setattr("thumbs.collect.exports.write._Making.rows", breaks)
    with pytest.raises(RuntimeError, match="pulled"):
        export(store, project.id, "preferences", Filters(), out)
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.glob("*x.jsonl*")) == ["x.jsonl", "x.jsonl.manifest.json"]


@ON_SQLITE
def test_a_download_is_in_a_folder_of_its_own(store: CollectStore):
    project = judged_pairs(store)
    kept = record_export(store, project.id, "dataset", Filters())
    assert kept.manifest["file"] == "work-dataset"
    assert [one.id for one in kept_exports(store, project.id)] == [kept.id]
    path = export_again(store, kept)
    assert path.name == "work-dataset.zip"
    assert (path.parent / "work-dataset.manifest.json").is_file()
    shutil.rmtree(path.parent)


@ON_SQLITE
def test_an_export_of_the_record_comes_again(store: CollectStore, tmp_path: Path):
    project = judged_pairs(store)
    made = export(store, project.id, "csv", Filters(min_strength=2, exclude_people=("cem",)), tmp_path / "x.csv")
    store.items.set_target(project.id, 4)
    say(store, project, "dan", {f"question {i}": TIE for i in range(5)})
    (kept,) = kept_exports(store, project.id)
    assert kept == kept_export(store, kept.id, project.id)
    again = export_again(store, kept)
    assert again.read_bytes() == (tmp_path / "x.csv").read_bytes()
    assert again.name == "work-csv.csv"
    shutil.rmtree(again.parent)
    with store.db.transaction() as db:
        db.execute(update(EXPORTS).values(manifest={**asdict(made), "sha256": "0", "thumbs": "0.0.1"}))
        assert len(db.execute(select(EXPORTS)).all()) == 1  # what came again is not a new export
    with pytest.raises(CollectError, match=r"made by thumbs 0\.0\.1"):
        export_again(store, kept_export(store, kept.id))
    with pytest.raises(NotFound, match="no export 77"):
        kept_export(store, 77)
    with pytest.raises(NotFound, match="of this project"):
        kept_export(store, kept.id, project.id + 1)


@ON_SQLITE
@pytest.mark.parametrize(
    ("name", "filters", "says"),
    [
        ("parquet", {}, "there are preferences, trl"),
        ("ratings", {}, "no place for answers to 'pair'; use preferences"),
        ("votes", {"aggregate": "majority"}, "a majority is none"),
        ("kto", {"strength_as": "margin"}, "no place for a margin; use preferences, trl, dataset"),
        ("hh", {"strength_as": "weight"}, "no place for a weight; use preferences, trl, dataset"),
        ("trl", {"axis": "honest"}, "nobody was asked about 'honest'; there are helpful"),
        ("trl", {"question_version": 2}, "versions 1 to 1"),
        ("trl", {"exclude_people": ("zoe",)}, "nobody called zoe"),
    ],
)
def test_what_does_not_fit_is_refused(store: CollectStore, name: str, filters: dict[str, Any], says: str):
    with pytest.raises(CollectError, match=says):
        preview(store, judged_pairs(store).id, name, Filters(**filters))


@ON_SQLITE
def test_filters_of_pairs_are_refused_for_rankings(store: CollectStore):
    project = ranking_project(store)
    for filters in (
        Filters(min_strength=2),
        Filters(drop_ties=True),
        Filters(strength_as="margin"),
        Filters(aggregate="majority"),
    ):
        with pytest.raises(CollectError, match="pairs"):
            preview(store, project.id, "trl", filters)


def test_memory_does_not_grow_with_the_export(store: CollectStore, tmp_path: Path):
    project = fill(store, 2000, 2000)
    export(store, project.id, "preferences", Filters(per_person=10), tmp_path / "warm.jsonl")
    tracemalloc.start()
    try:
        export(store, project.id, "preferences", Filters(per_person=1990), tmp_path / "x.jsonl")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "x.jsonl").stat().st_size
    assert size > 8e6
    assert peak < 5e6


@ON_SQLITE
def test_texts_are_read_a_page_at_a_time(store: CollectStore, monkeypatch: pytest.MonkeyPatch):
    project = fill(store, 500, 10)
    pages: list[int] = []
    read = store.items.texts
    monkeypatch.setattr(store.items, "texts", lambda ids: pages.append(len(ids)) or read(ids))
    watermark = store.votes.watermark(project.id)
    found = Selection(store, project, Filters(), watermark).items()
    assert (next(found).item, pages) == (1, [200])
    assert [judged.item for judged in found] == list(range(2, 501))
    assert pages == [200, 200, 100]
