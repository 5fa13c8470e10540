"""Judging pairs by keys, and what is in the database afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from browser.world import World
from collect_world import pair, person, project_of_pairs
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import NewItem
from thumbs.collect.settings import ProjectSettings
from thumbs.records import Generator, Message, Reply

STRENGTHS = {"1": -4, "2": -3, "3": -2, "4": -1, "5": 1, "6": 2, "7": 3, "8": 4}
"""What a key says of the reply on the left, if negative, or on the right."""


GOOD = """You can boil an egg in about **eight minutes**.

1. Bring a pot of water to a boil.
2. Lower the egg in with a spoon, and keep the water at a simmer.
3. Move it into cold water, so that it stops cooking.

Peel it under running water; the shell comes off more easily that way."""
DULL = """Eggs are boiled in water. How long depends on the egg, the pot and the altitude.

| kind | minutes |
|---|---|
| soft | 6 |
| hard | 9 |

Some people add salt. Others do not, and the egg does not seem to"""


def left(page: Page) -> str:
    """The words of the reply on the left."""
    return page.locator(".reply .md").first.inner_text()


def answered(page: Page, before: str) -> None:
    """Waits until the task with `before` on the left has gone."""
    expect(page.locator("#status")).to_contain_text("Saved")
    expect(page.locator(".reply .md").first).not_to_have_text(before)


def test_ten_pairs_by_keys_alone(world: World):
    project_of_pairs(world.store, 11)
    page = world.open(person(world.store, "ann"), "/p/work")
    meant = {}
    for key in "12345678TB":
        shown = left(page)
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        answered(page, shown)
        meant[int(re.findall(r"\d+", shown)[0])] = (key, shown.startswith("first"))
    votes = {int(world.store.items.content(vote.item)[0][0].content.split()[1]): vote for vote in world.votes()}
    assert len(votes) == 10
    for number, (key, first_was_left) in meant.items():
        vote = votes[number]
        if key in STRENGTHS:
            sign = 1 if first_was_left else -1
            assert (vote.answer.verdict, vote.answer.strength) == ("prefer", sign * STRENGTHS[key])
        else:
            assert vote.answer.verdict == {"T": "tie", "B": "both_bad"}[key]
        assert vote.display[0] == (0 if first_was_left else 1)
        assert 0 <= vote.active_ms <= vote.wall_ms + 1
    assert {first for _, first in meant.values()} == {True, False}
    assert page.locator("#progress").inner_text().startswith("10 judged")
    assert page.evaluate("document.activeElement.id") == "heading"


def test_a_long_conversation_shows_what_is_answered(world: World):
    turns = [Message("assistant" if i % 2 else "user", f"turn {i}\n\nand more of it") for i in range(19)]
    project = project_of_pairs(world.store, 0)
    world.store.items.add(project.id, [replace(pair(i), messages=(*turns, *pair(i).messages)) for i in range(2)])
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": 1200, "height": 800})
    for number in range(2):
        expect(page.locator(".turn").last).to_be_in_viewport()
        expect(page.locator(".turn").first).not_to_be_in_viewport()
        shown = left(page)
        if number == 0:
            page.keyboard.press("1")
            page.keyboard.press("Enter")
            answered(page, shown)


def test_it_says_why_it_does_not_submit_and_goes_there(world: World):
    question = Question(reason="required", axes=(Axis(key="honest", label="Honest", required=True),))
    made = world.store.projects.create("work", "W", question)
    world.store.items.add(made.id, [pair(0), pair(1)])
    page = world.open(person(world.store, "ann"), "/p/work")
    why = page.locator("#why")
    page.keyboard.press("Enter")
    expect(why).to_contain_text("Choose first")
    assert page.evaluate("document.activeElement.name") == "verdict"
    page.keyboard.press("8")
    expect(why).to_be_empty()
    page.keyboard.press("Enter")
    expect(why).to_contain_text("Honest")
    assert page.evaluate("document.activeElement.name") == "axis.honest"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(why).to_contain_text("why")
    assert page.evaluate("document.activeElement.name") == "reason"
    page.keyboard.type("s1 is not a key here")
    shown = left(page)
    page.keyboard.press("Control+Enter")
    answered(page, shown)
    (vote,) = world.votes()
    sign = 1 if shown.startswith("first") else -1
    assert (vote.answer.strength, vote.answer.axes) == (4 * sign, {"honest": -3 * sign})
    assert vote.answer.reason == "s1 is not a key here"


def test_a_key_with_control_or_in_a_text_does_nothing(world: World):
    project_of_pairs(world.store, 1)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("Control+1")
    page.keyboard.press("Alt+2")
    assert page.locator(".task :checked").count() == 0
    page.keyboard.press("e")
    page.keyboard.type("t5")
    assert page.locator(".task :checked").count() == 0
    page.keyboard.press("Escape")
    page.keyboard.press("5")
    assert page.locator("[name=verdict]:checked").get_attribute("value") == "1"
    assert page.locator("[name=reason]").input_value() == "t5"


def test_u_changes_the_answer_before(world: World):
    project_of_pairs(world.store, 3)
    page = world.open(person(world.store, "ann"), "/p/work")
    seen = []
    for _ in range(2):
        seen.append(left(page))
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        answered(page, seen[-1])
    third = left(page)
    page.keyboard.press("4")
    page.keyboard.press("u")
    expect(page.locator(".reply .md").first).to_have_text(seen[1])
    page.keyboard.press("u")
    expect(page.locator(".reply .md").first).to_have_text(seen[0])
    assert page.locator("[name=verdict]:checked").get_attribute("value") == "-4"
    page.keyboard.press("8")
    page.keyboard.press("Enter")
    answered(page, seen[0])
    assert left(page) == third
    assert page.locator("[name=verdict]:checked").get_attribute("value") == "-1", "the draft was lost"
    revised = [vote for vote in world.votes() if len(world.store.votes.revisions(vote.assignment)) == 2]
    assert len(revised) == 1
    chain = [vote.answer.strength for vote in world.store.votes.revisions(revised[0].assignment)]
    sign = 1 if seen[0].startswith("first") else -1
    assert chain == [-4 * sign, 4 * sign]


def test_skip_asks_for_a_reason(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")
    shown = left(page)
    for _ in range(5):  # Enter right after Escape must not press a button of the closed dialog
        page.keyboard.press("s")
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("Choose first")
    page.keyboard.press("s")
    expect(page.locator("#skip")).to_be_visible()
    page.keyboard.press("2")
    answered(page, shown)
    (vote,) = world.votes()
    assert (vote.answer.verdict, vote.answer.skip_reason) == ("skip", "expertise")
    assert page.locator("#progress").inner_text().startswith("0 judged")


def test_a_strength_key_may_submit_at_once(world: World):
    project_of_pairs(world.store, 2, submit_on_key=True)
    page = world.open(person(world.store, "ann"), "/p/work")
    shown = left(page)
    page.keyboard.press("6")
    answered(page, shown)
    expect(page.locator("#undo")).to_be_visible()
    page.locator("#undo").click()
    expect(page.locator(".reply .md").first).to_have_text(shown)
    page.keyboard.press("3")  # a change is sent by Enter alone
    page.keyboard.press("Enter")
    answered(page, shown)
    (vote,) = world.votes()
    assert abs(vote.answer.strength) == 2
    assert len(world.store.votes.revisions(vote.assignment)) == 2


def test_everybody_may_switch_that_off_and_the_keys_too(world: World):
    project_of_pairs(world.store, 1, submit_on_key=True)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("?")
    page.locator("#sheet [name=quick]").uncheck()
    page.locator("#sheet [name=letters]").uncheck()
    page.keyboard.press("Escape")
    page.reload()
    page.keyboard.press("5")
    assert page.locator("[name=verdict]:checked").count() == 0
    page.locator("label", has_text="Equally good").click()
    assert world.votes() == []


def test_guidelines_open_once_for_each_version(world: World):
    made = world.store.projects.create("work", "W", Question(), guidelines="Be **kind**.")
    world.store.items.add(made.id, [pair(0), pair(1)])
    page = world.open(person(world.store, "ann"), "/p/work")
    dialog = page.locator("#sheet")
    expect(dialog).to_contain_text("Be kind.")
    page.keyboard.press("Escape")
    page.reload()
    expect(page.locator("#heading")).to_be_visible()
    page.wait_for_timeout(100)
    expect(dialog).to_be_hidden()
    world.store.projects.advise(made.id, "Be brief.")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Be brief.")


def test_raw_text_shows_what_is_invisible_and_d_what_differs(world: World):
    made = world.store.projects.create("work", "W", Question())
    texts = ("one **two** three", "one two \u202e four")
    item = NewItem((Message("user", "?"),), tuple(Reply(text, Generator("model", text[:9])) for text in texts))
    world.store.items.add(made.id, [item])
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("d")
    expect(page.locator("[data-do=diff]")).to_have_attribute("aria-pressed", "true")
    words = page.evaluate("[...CSS.highlights.get('differs')].map(String).sort()")
    assert [word for word in words if word.isalpha()] == ["four", "three"]
    page.keyboard.press("d")
    assert page.evaluate("CSS.highlights.size") == 0
    page.keyboard.press("r")
    expect(page.locator(".replies")).to_contain_text("one **two** three")
    expect(page.locator(".replies .codepoint")).to_have_text("U+202E")


def test_polling_finds_a_task_that_comes(world: World):
    made = world.store.projects.create("work", "W", Question(), settings=ProjectSettings())
    world.sources["work"] = object()  # a model is at work
    page = world.open(person(world.store, "ann"), "/p/work")
    expect(page.locator("#heading")).to_have_text("New replies are being written")
    world.store.items.add(made.id, [pair(0)])
    expect(page.locator(".reply")).to_have_count(2)
    expect(page.locator("#status")).to_contain_text("new task")


@pytest.mark.parametrize("width", [320, 640])
def test_a_narrow_window_has_one_column_and_scrolls_one_way(world: World, width: int):
    question = Question(axes=(Axis(key="a", label="Helpful"),), flags=("Unsafe", "Not true"), rewrite=True)
    made = world.store.projects.create("work", "A name that is rather long for a small window", question)
    world.store.items.add(made.id, [pair(0)])
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": width, "height": 600})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [box for box in (reply.bounding_box() for reply in page.locator(".reply").all()) if box]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    small = page.evaluate(
        "[...document.querySelectorAll('button, .task label, summary')].filter((e) => e.checkVisibility() && "
        "!e.closest('dialog') && Math.min(e.offsetHeight, e.offsetWidth) < 44).map((e) => e.textContent)"
    )
    assert small == []


def test_the_first_page_is_small(world: World):
    project_of_pairs(world.store, 1)
    account = person(world.store, "ann")
    cookie = f"collect_login_{world.url.rpartition(':')[2]}={world.store.people.log_in(account)}"

    def fetched(path: str) -> str:
        with urlopen(Request(world.url + path, headers={"Cookie": cookie})) as response:  # noqa: S310 - our own
            return response.read().decode()

    html = fetched("/p/work")
    files = re.findall(r'(?:href|src)="(/static/[^"]+(?:css|js)\?[^"]*)"', html)
    assert len(files) == 2
    assert sum(len(text.encode()) for text in (html, *map(fetched, files))) < 30_000


@pytest.mark.parametrize(("language", "title"), [("en", "Which reply is better?"), ("zh", "哪个回复更好？")])
def test_the_language_is_remembered(world: World, language: str, title: str):
    project_of_pairs(world.store, 1)
    page = world.open(person(world.store, "ann"), f"/p/work?lang={language}")
    page.goto(world.url + "/p/work")
    expect(page.locator("legend").first).to_have_text(title)
    assert page.locator("html").get_attribute("lang") == language


def test_pictures_for_the_documents(world: World, picture: Callable[[Page, str], None]):
    made = world.store.projects.create("work", "Helpful replies, round 2", Question())
    asked = (Message("user", "How long should I boil an egg, and how do I peel it?"),)
    replies = (Reply(GOOD, Generator("model", "m")), Reply(DULL, Generator("model", "m"), "length"))
    assert not world.store.items.add(made.id, [NewItem(asked, replies)]).refused
    account = person(world.store, "anna")
    for name, options in (("light", {}), ("dark", {"color_scheme": "dark"}), ("chinese", {"locale": "zh-CN"})):
        page = world.open(account, "/p/work", viewport={"width": 1120, "height": 720}, **options)
        picture(page, f"annotate-{name}")


def test_a_hidden_text_opens_by_enter_which_sends_nothing(world: World):
    project = project_of_pairs(world.store, 0, filters=[{"name": "words", "terms": ["second"]}])
    world.store.items.add(project.id, [pair(1)])
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("1")
    text = page.locator(".caught .md")
    expect(text).to_be_hidden()
    page.locator(".caught summary").focus()
    page.keyboard.press("Enter")
    expect(text).to_be_visible()
    expect(page.locator(".caught .raw")).to_be_hidden()
    expect(page.locator("#status")).not_to_contain_text("Saved")
