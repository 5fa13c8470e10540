"""Not one byte that an annotator's browser receives tells who wrote a reply, or in which order replies are kept."""

from __future__ import annotations

from playwright.sync_api import Route, expect

from browser.world import World
from collect_world import person
from thumbs.collect.question import Question
from thumbs.collect.records import NewItem
from thumbs.collect.settings import ProjectSettings
from thumbs.records import Generator, Message, Reply

SECRETS = (
    b"zeta-policy", b"omega-policy", b"runs/secret", b"step-77", b"4242", b"0.6789", b"top_q", b"canonical", b"seed",
    b"generator", b"checkpoint", b"temperature", b"slot", b'"display"', b'"item"', b"chosen_by", b"uncertain",
)  # fmt: skip


def item(number: int, **more: object) -> NewItem:
    policies = [
        Generator("model", name, "runs/secret/step-77", {"temperature": 0.6789, "top_q": 1}, 4242)
        for name in ("zeta-policy", "omega-policy")
    ]
    replies = tuple(Reply(f"{word} {number}", policy) for word, policy in zip(("red", "blue"), policies, strict=True))
    chosen = {"policy": "uncertain", "propensity": 0.6789}
    return NewItem((Message("user", f"question {number}"),), replies, chosen_by=chosen, **more)  # type: ignore[arg-type]


def test_a_whole_session_tells_nothing(world: World):
    settings = ProjectSettings(gold_every=2, submit_on_key=False)
    made = world.store.projects.create("work", "W", Question(), guidelines="Judge well.", settings=settings)
    assert not world.store.items.add(made.id, [item(i) for i in range(4)]).refused
    page = world.window(person(world.store, "ann")).new_page()
    received: list[tuple[str, bytes]] = []

    def keep(route: Route) -> None:
        response = route.fetch(max_redirects=0)
        head = "\n".join(f"{one['name']}: {one['value']}" for one in response.headers_array)
        received.append((response.url, response.url.encode() + head.encode() + response.body()))
        route.fulfill(response=response)

    page.route("**/*", keep)
    page.goto(world.url + "/?lang=en")
    page.goto(world.url + "/p/work")
    expect(page.locator("#sheet")).to_be_visible()
    page.keyboard.press("Escape")
    for key in ("1", "t", "8"):
        shown = page.locator(".reply .md").first.inner_text()
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        expect(page.locator(".reply .md").first).not_to_have_text(shown)
    page.keyboard.press("u")
    expect(page.locator(".banner")).to_be_visible()
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator(".banner")).to_have_count(0)
    page.keyboard.press("s")
    page.keyboard.press("1")
    expect(page.locator("#heading")).to_contain_text("All judged")
    page.evaluate("fetch('/api/projects/work/history').then((r) => r.text())")
    page.wait_for_timeout(100)
    assert len(world.votes()) == 4
    paths = {url.removeprefix(world.url).partition("?")[0] for url, _ in received}
    assert {"/p/work", "/api/projects/work/history", "/static/collect.js"} <= paths
    assert any(path.endswith("/judgement") for path in paths)
    assert any(path.endswith("/revisions") for path in paths)
    told = [(secret, url) for url, bytes_ in received for secret in SECRETS if secret in bytes_.lower()]
    assert told == []


def test_the_order_shown_is_not_the_order_kept(world: World):
    """Over 40 tasks either reply stands on the left about as often: 40 coins give 8 or fewer once in 10,000 times."""
    made = world.store.projects.create("work", "W", Question())
    world.store.items.add(made.id, [item(i) for i in range(40)])
    account = person(world.store, "ann")
    left = 0
    for n in range(40):
        task = world.store.work.claim(made.id, account)
        assert not isinstance(task, str)
        left += task.replies[0].startswith("red")
        world.store.work.submit(task.assignment, account, f"key-{n:08d}", {"verdict": "tie"})
    assert 8 < left < 32
