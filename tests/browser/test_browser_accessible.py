"""axe finds nothing on any page of the annotator's, by day and by night, in both languages."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from browser.world import World
from collect_world import pair, person
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import NewItem
from thumbs.records import Generator, Message, Reply

TEXTS = (
    "A **list**:\n\n1. one\n2. two\n\n> quoted\n\n```python\ndef a_long_line():\n    return '" + "x" * 200 + "'\n```",
    "| kind | minutes |\n|---|---|\n| soft | 6 |\n\n[link](https://example.org) `code` שלום\u202e",
    "Third.",
)
MODEL = Generator("model", "m")
AXES = (Axis(key="helpful", label="Helpful", required=True), Axis(key="honest", label="Honest"))
QUESTIONS = {
    "pair": (Question(axes=AXES, flags=("Unsafe",), reason="required", rewrite=True), 2),
    "harmful": (Question(direction="more_harmful"), 2),
    "rank": (Question(kind="rank"), 3),
    "rate": (Question(kind="rate", axes=AXES), 2),
    "write": (Question(kind="write"), 0),
    "rewrite": (Question(kind="rewrite"), 1),
}
LOOKS = [("light", "en", 1280), ("dark", "zh", 400)]


@cache
def axe() -> Axe:
    return Axe()


def faults(page: Page) -> list[str]:
    found = axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:200]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize(("scheme", "language", "width"), LOOKS)
def test_axe_finds_nothing(world: World, scheme: str, language: str, width: int, picture: Callable[[Page, str], None]):
    for slug, (question, replies) in QUESTIONS.items():
        made = world.store.projects.create(slug, slug, question, guidelines="# Guide\n\nBe **kind**.")
        asked = (Message("system", "Be brief."), Message("user", "What *is* this?"))
        shown = tuple(Reply(text, MODEL, "length") for text in TEXTS[:replies])
        assert not world.store.items.add(made.id, [NewItem(asked, shown)]).refused
    world.store.projects.create("chat", "Chat", Question(kind="chat", direction="more_harmful"))
    world.store.projects.create("empty", "Empty", Question())
    options = {"color_scheme": scheme, "bypass_csp": True, "viewport": {"width": width, "height": 800}}
    page = world.open(person(world.store, "ann"), f"/?lang={language}", **options)
    assert faults(page) == []
    for slug in (*QUESTIONS, "chat", "empty"):
        page.goto(f"{world.url}/p/{slug}")
        if slug in QUESTIONS:
            expect(page.locator("#sheet")).to_be_visible()
            assert slug != "pair" or faults(page) == []
            page.keyboard.press("Escape")
        if slug in ("pair", "harmful"):
            page.locator(".side.b label").nth(1).click()
        assert faults(page) == []
    page.goto(f"{world.url}/p/pair")
    for key, dialog in (("?", "#sheet"), ("s", "#skip")):
        page.keyboard.press(key)
        expect(page.locator(dialog)).to_be_visible()
        assert faults(page) == []
        if key == "?" and scheme == "light":
            picture(page, "help")
        page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).not_to_be_empty()
    page.keyboard.press("r")
    assert faults(page) == []
    page.goto(f"{world.url}/p/nowhere")
    assert faults(page) == []


def test_a_phone(world: World, picture: Callable[[Page, str], None]):
    made = world.store.projects.create("work", "The work", Question())
    world.store.items.add(made.id, [pair(0)])
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
    page = world.open(person(world.store, "ann"), "/p/work", **phone)
    page.locator(".side.a label").nth(2).tap()
    picture(page, "annotate-phone")
    page.locator(".primary").tap()
    expect(page.locator("#heading")).to_contain_text("All judged")
    (vote,) = world.votes()
    judged = world.store.db.values(_input())
    assert (vote.answer.verdict, abs(vote.answer.strength), judged) == ("prefer", 2, ["touch"])


def _input():
    from sqlalchemy import select

    from thumbs.collect.tables import JUDGEMENTS

    return select(JUDGEMENTS.c.input)
