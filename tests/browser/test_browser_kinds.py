"""Rankings, ratings, writing and conversations, by keys, and what is in the database afterwards."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from playwright.sync_api import Page, expect

from browser.world import World
from collect_world import person
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import NewItem
from thumbs.records import Generator, Message, Reply

AXES = (Axis(key="helpful", label="Helpful"), Axis(key="harmless", label="Harmless", low=0, high=3))
MODEL = Generator("model", "m")


def project(world: World, question: Question, replies: Sequence[str], items: int = 1) -> None:
    made = world.store.projects.create("work", "The work", question)
    for i in range(items):
        asked = (Message("user", f"question {i}"),)
        added = world.store.items.add(made.id, [NewItem(asked, tuple(Reply(text, MODEL) for text in replies))])
        assert not added.refused


def shown(page: Page) -> list[str]:
    return [reply.inner_text() for reply in page.locator(".reply .md").all()]


def finished(page: Page) -> None:
    expect(page.locator("#heading")).to_contain_text("All judged")


def test_a_ranking_with_a_tie_by_number_keys(world: World, picture: Callable[[Page, str], None]):
    replies = ("zero", "one", "two", "three")
    project(world, Question(kind="rank"), replies)
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": 1120, "height": 720})
    order = shown(page)
    expect(page.locator("#order")).to_have_text("")
    for key in "2313":
        page.keyboard.press(key)
    expect(page.locator("#order")).to_have_text("C > A > B = D")
    picture(page, "rank")
    page.keyboard.press("Enter")
    finished(page)
    (vote,) = world.votes()
    ranks = dict(zip(order, (2, 3, 1, 3), strict=True))
    assert vote.answer.ranks == tuple(ranks[text] for text in replies)


def test_a_rank_of_a_focused_card_and_what_is_missing(world: World):
    project(world, Question(kind="rank"), ("zero", "one", "two"))
    page = world.open(person(world.store, "ann"), "/p/work")
    page.locator(".reply .scroll").nth(1).focus()
    page.keyboard.press("1")
    assert [field.input_value() for field in page.locator("[type=number]").all()] == ["", "1", ""]
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("reply A")
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("from 1 to 3")
    assert world.votes() == []


def test_ratings_and_flags(world: World, picture: Callable[[Page, str], None]):
    project(world, Question(kind="rate", axes=AXES, flags=("Unsafe", "Not true")), ("zero", "one"))
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": 1120, "height": 720})
    order = shown(page)
    for key in "5042":
        page.keyboard.press(key)
    page.locator(".flags").nth(1).get_by_label("Not true").check()
    picture(page, "rate")
    page.keyboard.press("Enter")
    finished(page)
    (vote,) = world.votes()
    ratings = dict(zip(order, ({"helpful": 5, "harmless": 0}, {"helpful": 4, "harmless": 2}), strict=True))
    flags = dict(zip(order, ((), ("Not true",)), strict=True))
    assert vote.answer.ratings == (ratings["zero"], ratings["one"])
    assert vote.answer.flags == (flags["zero"], flags["one"])


def test_a_rating_is_not_sent_with_gaps(world: World):
    project(world, Question(kind="rate", axes=AXES), ("zero",))
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("3")
    page.keyboard.press("Escape")
    page.locator("#heading").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("Harmless")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    finished(page)


def test_writing(world: World):
    project(world, Question(kind="write"), ())
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("Write something")
    page.keyboard.press("Escape")
    page.keyboard.press("e")
    page.keyboard.type("Dear all,\nt 1 s")
    page.keyboard.press("Control+Enter")
    finished(page)
    (vote,) = world.votes()
    assert (vote.answer.verdict, vote.answer.text) == ("write", "Dear all,\nt 1 s")


def test_a_rewrite_begins_with_the_reply_and_must_change_it(world: World):
    text = "\nline **one**\n\n  line two\n"
    project(world, Question(kind="rewrite"), (text,))
    page = world.open(person(world.store, "ann"), "/p/work")
    field = page.locator("[name=text]")
    assert field.input_value() == text
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_contain_text("Change the text")
    field.press("Control+End")
    page.keyboard.type("three")
    page.keyboard.press("Control+Enter")
    finished(page)
    (vote,) = world.votes()
    assert vote.answer.text == text + "three"


def test_a_pair_with_axes_flags_and_a_rewrite(world: World):
    project(world, Question(axes=AXES, flags=("Unsafe",), rewrite=True), ("zero", "one"))
    page = world.open(person(world.store, "ann"), "/p/work")
    zero_is_left = shown(page)[0] == "zero"
    page.keyboard.press("6")
    page.locator("[name='axis.helpful'][value='-4']").check(force=True)
    page.locator("[name='axis.harmless'][value='0']").check(force=True)
    page.locator("[name='flag.1']").check(force=True)
    page.locator(".better summary").click()
    page.locator(".better textarea").fill("a better one")
    page.locator(".primary").click()
    finished(page)
    (vote,) = world.votes()
    sign = 1 if zero_is_left else -1
    assert vote.answer.strength == 2 * sign
    assert vote.answer.axes == {"helpful": -4 * sign, "harmless": 0}
    assert vote.answer.flags == (((), ("Unsafe",)) if zero_is_left else (("Unsafe",), ()))
    assert vote.answer.text == "a better one"


class Echo:
    """A live policy: two replies that name the turn."""

    name = "echo-7b"

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        turn = sum(message.role == "user" for message in messages)
        return [Reply(f"turn {turn} reply {i} to {messages[-1].content}", MODEL) for i in range(n)]


def test_a_conversation_with_the_live_policy(world: World, picture: Callable[[Page, str], None]):
    world.store.projects.create("work", "Chat", Question(kind="chat"))
    world.sources["work"] = Echo()
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": 1120, "height": 720})
    page.keyboard.press("Control+Enter")
    expect(page.locator("#why")).to_contain_text("Write a message")
    box = page.locator("[name=text]").bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 1120 - 16
    chosen = []
    for turn, key in ((1, "1"), (2, "8")):
        page.locator("[name=text]").fill(f"hello {turn}")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".reply")).to_have_count(2)
        if turn == 2:
            picture(page, "chat")
            assert page.locator(".turn").count() == 3
        chosen.append(shown(page)[0 if key == "1" else 1])
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        expect(page.locator(".reply")).to_have_count(0)
        expect(page.locator(".turn.assistant .md").last).to_have_text(chosen[-1])
    page.get_by_role("button", name="End conversation").click()
    page.locator("dialog").get_by_role("button", name="End conversation").click()
    expect(page.locator("#heading")).to_have_text("Begin a conversation")
    votes = world.votes()
    assert len(votes) == 2
    for vote, text in zip(votes, chosen, strict=True):
        replies = world.store.items.content(vote.item)[1]
        assert replies[int(vote.answer.strength > 0)].text == text


def test_the_reversed_question_says_so_everywhere(world: World, picture: Callable[[Page, str], None]):
    world.store.projects.create("work", "Chat", Question(kind="chat", direction="more_harmful"))
    world.sources["work"] = Echo()
    page = world.open(person(world.store, "ann"), "/p/work", viewport={"width": 1120, "height": 720})
    expect(page.locator(".harm")).to_contain_text("MORE HARMFUL")
    page.locator("[name=goal]").fill("to swear")
    page.locator("[name=text]").fill("hello")
    page.keyboard.press("Control+Enter")
    expect(page.locator("legend").first).to_have_text("Which reply is MORE HARMFUL?")
    expect(page.locator(".harm")).to_contain_text("MORE HARMFUL")
    assert all("harmful" in text for text in page.locator(".steps .s4").all_inner_texts())
    picture(page, "harmful")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="End conversation").click()
    page.locator("dialog label", has_text="3").click()
    page.locator("dialog").get_by_role("button", name="End conversation").click()
    expect(page.locator("#heading")).to_have_text("Begin a conversation")


def test_a_conversation_without_a_model_says_so_and_keeps_the_text(world: World):
    world.store.projects.create("work", "Chat", Question(kind="chat"))
    page = world.open(person(world.store, "ann"), "/p/work")
    page.locator("[name=text]").fill("hello")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#notice")).to_contain_text(re.compile("no model is connected"))
    expect(page.locator("[name=text]")).to_have_value("hello")
