"""Filters of a project: texts are hidden behind a click on every page, and exports can leave them out."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from collect_visitor import Visitor, team_app
from collect_world import ON_SQLITE, first_is_better, model, person
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import export
from thumbs.collect.importing import import_items
from thumbs.collect.question import Question
from thumbs.collect.records import NewItem, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.records import Generator, Message, Reply

CARD, MAIL = "it is 4111 1111 1111 1111", "write to ann.lee@example.org"
RULES = ("cards", "emails", {"name": "words", "terms": ["anvil"]})


def project(store: CollectStore, kind: str = "pair") -> int:
    settings = ProjectSettings.model_validate({"filters": RULES})
    return store.projects.create("work", "Work", Question(kind=kind), settings=settings).id  # type: ignore[arg-type]


def item(asked: str, *replies: str, turns: Sequence[Message] = ()) -> NewItem:
    return NewItem(
        (*turns, Message("user", asked)), tuple(Reply(text, model("m", i)) for i, text in enumerate(replies))
    )


def outside(html: str) -> str:
    """What a page shows before anybody clicks."""
    while (less := re.sub(r"<details(?:(?!<details).)*?</details>", "", html, flags=re.DOTALL)) != html:
        html = less
    return html


@ON_SQLITE
def test_texts_are_hidden_behind_their_reason_on_every_page(store: CollectStore):
    number = project(store)
    ann, owner = person(store, "ann"), person(store, "olga", "owner")
    earlier = (Message("user", "my anvil"), Message("assistant", MAIL))
    store.items.add(number, [item(CARD, "good reply", "An ANVIL", turns=earlier)])
    visitor = Visitor(team_app(store), ann)
    for language, words in (("en", "may hold a card number"), ("zh", "可能含有银行卡号")):
        html = visitor.get(f"/p/work?lang={language}").text
        assert words in outside(re.sub(r"</?(details|summary)[^>]*>", "", html))
        shown = outside(html)
        assert "good reply" in shown
        for secret in ("4111", "ann.lee", "anvil", "ANVIL"):
            assert secret in html
            assert secret not in shown
        assert html.count('<details class="scroll caught">') == 4
    task = store.work.claim(number, ann)
    assert isinstance(task, Task)
    store.work.submit(task.assignment, ann, "key-one-two", first_is_better(task))
    assert "4111" not in visitor.json("/api/projects/work/history", method="GET").text
    boss = Visitor(team_app(store), owner)
    (record,) = store.items.page(number)
    for path in ("/admin/p/work/items", f"/admin/p/work/items/{record.id}", "/p/work/results/samples"):
        page = boss.get(path)
        assert page.status_code == 200
        for secret in ("4111", "ann.lee", "ANVIL"):
            assert secret not in outside(page.text), path


@ON_SQLITE
def test_a_text_to_rewrite_does_not_stand_in_the_box(store: CollectStore):
    number, ann = project(store, "rewrite"), person(store, "ann")
    store.items.add(number, [item("hi", CARD)])
    html = Visitor(team_app(store), ann).get("/p/work").text
    assert "4111" not in re.findall(r"<textarea name=\"text\".*?</textarea>", html, re.DOTALL)[0]


@ON_SQLITE
def test_replies_in_a_chat_are_hidden_in_the_next_turn_too(store: CollectStore):
    number, ann = project(store, "chat"), person(store, "ann")

    def write(messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        return [Reply(f"{MAIL} {i}", Generator("model", "live", seed=seed)) for i in range(n)]

    talk = store.chat.start(number, ann)
    task = store.chat.say(talk, ann, "who?", write)
    assert set(task.hidden) == set(task.replies)
    store.work.submit(task.assignment, ann, "key-one-two", {"verdict": "tie"})
    html = Visitor(team_app(store), ann).get("/p/work").text
    assert "ann.lee" in html
    assert "ann.lee" not in outside(html)


@ON_SQLITE
def test_exports_say_what_was_found_or_leave_it_out(store: CollectStore, tmp_path: Path):
    number, ann = project(store), person(store, "ann")
    store.items.add(number, [item("one", "good", "bad"), item("two", "good", CARD)])
    for turn in range(2):
        task = store.work.claim(number, ann)
        assert isinstance(task, Task)
        store.work.submit(task.assignment, ann, f"key-number-{turn}", {"verdict": "tie"})
    whole = export(store, number, "preferences", Filters(), tmp_path / "all.jsonl")
    left = export(store, number, "preferences", Filters(exclude_filtered=True), tmp_path / "left.jsonl")
    assert (whole.counts.rows, left.counts.rows) == (2, 1)
    assert left.counts.dropped["filtered"] == 1
    assert "4111" not in (tmp_path / "left.jsonl").read_text(encoding="utf-8")
    export(store, number, "votes", Filters(), tmp_path / "votes.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [row["chosen_by"].get("filtered") for row in rows]
    assert found == [None, [["reply", 1, "cards", "a payment card number"]]]


@ON_SQLITE
@pytest.mark.parametrize("filters", [[], ["cards"]])
def test_what_a_file_says_that_was_found_is_not_believed(filters: list[str], store: CollectStore):
    settings = ProjectSettings.model_validate({"filters": filters})
    made = store.projects.create("work", "Work", Question(kind="pair"), settings=settings)
    forged = [["reply", 9, "cards", "r"], ["nowhere", 0, "x", "r"]]
    line = {"prompt": "hi", "replies": ["good", CARD], "chosen_by": {"policy": "file", "filtered": forged}}
    import_items(store, made.id, [json.dumps(line)], source="lines")
    task = store.work.claim(made.id, person(store, "ann"))
    assert isinstance(task, Task)
    assert dict(task.hidden) == ({CARD: ("cards", "a payment card number")} if filters else {})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"filters": ["secretz"]}, "'secretz' is none of secrets, cards, emails, words, guard"),
        ({"filters": ["os:system"]}, "is none of"),
        ({"filters": [{"name": "words", "path": "/etc/passwd"}]}, "a project reads no files"),
        ({"filters": ["words"]}, "words has no words"),
        ({"filters": ["guard"]}, "safety.guard"),
        ({"filters": ["guard"], "guard": {"model": "byte-tiny"}}, "no model runs here"),
        ({"filters": ["cards", "cards"]}, "comes twice"),
    ],
)
def test_filters_that_cannot_be_are_refused(settings: dict[str, object], told: str):
    with pytest.raises(ValidationError, match=re.escape(told)):
        ProjectSettings.model_validate(settings)


@ON_SQLITE
def test_the_form_of_settings_keeps_the_filters(store: CollectStore):
    number, owner = project(store), person(store, "olga", "owner")
    visitor = Visitor(team_app(store), owner)
    assert visitor.form("/admin/p/work/settings", overlap="3").status_code == 303
    settings = store.projects.settings(number)
    assert (settings.overlap, [each.name for each in settings.filters]) == (3, ["cards", "emails", "words"])
    assert visitor.form("/admin/p/work/settings", filters="cards").status_code == 400
