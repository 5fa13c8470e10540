"""Hostile text wherever text can come from: nothing runs, nothing is fetched, nothing leaves its place."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from browser.world import World
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import NewItem
from thumbs.records import Generator, Message, Reply

ATTACKS = (
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg/onload=window.ran=1>",
    "</textarea><script>window.ran = 1</script>",
    "</script><script>window.ran = 1</script>",
    '"><img src=x onerror=window.ran=1>',
    "' onfocus='window.ran = 1' autofocus='",
    "<iframe srcdoc='<script>parent.ran = 1</script>'></iframe>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=window.ran=1>'>",
    "<style>body { display: none }</style><link rel=stylesheet href=//evil.example/x.css>",
    "<base href=//evil.example/><form action=//evil.example/><button>Submit</button>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'>",
    "[click](javascript:window.ran=1) [x](data:text/html,<script>window.ran=1</script>) [y](vbscript:x)",
    "[a](JaVaScRiPt:window.ran=1) <javascript:window.ran=1> [b]( javascript:window.ran=1)",
    "![tracker](https://evil.example/pixel.png) ![](//evil.example/p) ![x](/logout)",
    "[out](/logout) [up](../../admin) [frame](//evil.example/)",
    "[ref]\n\n[ref]: javascript:window.ran=1 'title\" onmouseover=\"window.ran=1'",
    "```html\n<script>window.ran = 1</script>\n```",
    "`<img src=x onerror=window.ran=1>` &lt;script&gt; &#x3c;script&#x3e;",
    "{{ 7 * 7 }} {% raw %} ${7 * 7}",
    "\u202egnp.exe\u202c \u2066isolated \u200b\ufeff zero",
)
ALL = "\n\n".join(ATTACKS)
MODEL = Generator("model", ALL[:200])


def annotator(world: World) -> int:
    return world.store.people.add("ann", ALL[:150], "annotator").id


def checked(world: World, page) -> None:
    page.mouse.move(300, 300)
    page.wait_for_timeout(150)
    assert page.evaluate("window.ran") is None
    assert [url for url in world.requested if not url.startswith(world.url)] == []
    assert [url for url in world.requested if "/logout" in url] == []
    assert page.locator("main script, main style, main link, main iframe, main img, main base, main meta").count() == 0
    handlers = (
        "[...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames()).filter((n) => /^on|^style$/.test(n))"
    )
    assert page.evaluate(handlers) == []
    links = page.evaluate("[...document.querySelectorAll('.md a[href]')].map((a) => a.href)")
    assert [link for link in links if not link.startswith(("http://", "https://", "mailto:"))] == []
    assert [link for link in links if link.startswith(world.url)] == []


def test_attacks_in_prompt_replies_reason_names_and_guidelines(world: World):
    question = Question(
        text=ALL[:300],
        axes=(Axis(key="a", label=ATTACKS[1]),),
        flags=(ATTACKS[0], ATTACKS[5]),
        skip_reasons=(ATTACKS[1], ATTACKS[6]),
        rewrite=True,
    )
    made = world.store.projects.create("work", ALL[:200], question, guidelines=ALL)
    replies = (Reply(ALL, MODEL), Reply(ALL[::-1] + ALL, MODEL))
    messages = (Message("system", ALL), Message("user", ALL), Message("assistant", ALL), Message("user", ALL + "?"))
    added = world.store.items.add(made.id, [NewItem(messages, replies, name=str(i)) for i in range(2)])
    assert not added.refused
    page = world.open(annotator(world), "/p/work")
    expect(page.locator("#sheet .md")).to_contain_text("[image: tracker — https://evil.example/pixel.png]")
    checked(world, page)
    page.keyboard.press("Escape")
    for key in "rdrd":
        page.keyboard.press(key)
    page.keyboard.press("r")
    expect(page.locator(".reply .codepoint", has_text="U+202E").first).to_be_visible()
    page.keyboard.press("1")
    page.locator("[name=reason]").fill(ALL)
    page.locator(".better summary").click()
    page.locator(".better textarea").fill(ALL)
    page.locator(".primary").click()
    expect(page.locator("#status")).to_contain_text("Saved")
    page.locator("#heading").focus()
    page.keyboard.press("u")
    expect(page.locator("[name=reason]")).to_have_value(ALL)
    checked(world, page)
    (vote,) = world.votes()
    assert (vote.answer.reason, vote.answer.text) == (ALL, ALL)
    assert vote.answer.text in ALL


@pytest.mark.parametrize("kind", ["rewrite", "rank", "rate"])
def test_attacks_in_other_kinds(world: World, kind: str):
    axes = (Axis(key="a", label=ATTACKS[0]),) if kind == "rate" else ()
    made = world.store.projects.create("work", "W", Question.model_validate({"kind": kind, "axes": axes}))
    replies = tuple(Reply(ALL + "!" * i, MODEL) for i in range(1 if kind == "rewrite" else 3))
    assert not world.store.items.add(made.id, [NewItem((Message("user", ALL),), replies)]).refused
    page = world.open(annotator(world), "/p/work")
    if kind == "rewrite":
        assert page.locator("[name=text]").input_value() == ALL
    checked(world, page)


def test_bombs_are_shown_in_a_moment(world: World):
    bombs = (
        "*" * 20_000,
        "[" * 5_000,
        "|" + "a|" * 3_000 + "\n|" + "-|" * 3_000 + "\n|" + "b|" * 3_000,
        "> " * 2_000 + "deep",
        "- " * 2_000 + "deep",
        "x" * 300_000,
    )
    made = world.store.projects.create("work", "W", Question(kind="rank"))
    replies = tuple(Reply(text, MODEL) for text in bombs)
    assert not world.store.items.add(made.id, [NewItem((Message("user", "?"),), replies)]).refused
    page = world.open(annotator(world), "/p/work", viewport={"width": 400, "height": 700})
    expect(page.locator(".reply")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    long = page.locator(".md").filter(has=page.locator("summary", has_text="300000"))
    long.locator("summary").click()
    expect(long.locator(".raw")).to_have_text("x" * 100_000)


def test_a_reply_cannot_turn_the_page_round(world: World):
    made = world.store.projects.create("work", "\u202eW", Question())
    replies = (Reply("שלום עולם", MODEL), Reply("\u202e\u2067 over\n\n```\ncode()\n```", MODEL))
    world.store.items.add(made.id, [NewItem((Message("user", "مرحبا"),), replies)])
    page = world.open(annotator(world), "/p/work")
    places = [page.locator(f"[name=verdict][value='{value}']").bounding_box() for value in (-4, -1, 1, 4)]
    lefts = [place["x"] for place in places if place]
    assert lefts == sorted(lefts)
    hebrew = page.locator(".reply .md", has_text="שלום")
    assert hebrew.evaluate("(e) => getComputedStyle(e).direction") == "rtl"
    assert page.locator(".md pre").evaluate("(e) => getComputedStyle(e).direction") == "ltr"
