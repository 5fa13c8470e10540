"""Whatever happens to the network, the tab or the session: each answer is stored once."""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from browser.world import World
from collect_world import person, project_of_pairs

JUDGEMENT = "**/judgement"


def judge(page: Page, key: str = "2") -> str:
    """Presses a strength and Enter; the reply on the left."""
    shown = page.locator(".reply .md").first.inner_text()
    page.keyboard.press(key)
    page.keyboard.press("Enter")
    return shown


def gone(page: Page, shown: str) -> None:
    expect(page.locator(".reply .md").first).not_to_have_text(shown, timeout=10_000)
    assert kept(page) == []


def kept(page: Page) -> list[str]:
    """The answers that wait in the browser."""
    return page.evaluate("Object.keys(localStorage).filter((key) => key.startsWith('collect:out:'))")


def test_a_request_that_does_not_arrive_is_sent_again(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.route(JUDGEMENT, lambda route: route.abort(), times=1)
    shown = judge(page)
    expect(page.locator("#notice")).to_contain_text("No connection")
    assert len(kept(page)) == 1
    gone(page, shown)
    expect(page.locator("#notice")).to_be_empty()
    assert len(world.votes()) == 1


def test_a_lost_reply_does_not_make_a_second_judgement(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")

    def stored_and_lost(route: Route) -> None:
        assert route.fetch().status == 201
        route.abort()

    page.route(JUDGEMENT, stored_and_lost, times=1)
    gone(page, judge(page))
    (vote,) = world.votes()
    assert len(world.store.votes.revisions(vote.assignment)) == 1


def test_a_server_in_trouble_is_asked_again(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.route(JUDGEMENT, lambda route: route.fulfill(status=503, json={"detail": "no"}), times=1)
    gone(page, judge(page))
    assert len(world.votes()) == 1


def test_enter_twice_is_one_judgement(world: World):
    project_of_pairs(world.store, 3)
    page = world.open(person(world.store, "ann"), "/p/work")
    shown = judge(page)
    page.keyboard.press("Enter")
    gone(page, shown)
    page.wait_for_timeout(200)
    assert len(world.votes()) == 1


def test_a_reload_sends_what_was_kept(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.context.route(JUDGEMENT, lambda route: route.abort())
    page.keyboard.press("e")
    page.keyboard.type("because")
    page.keyboard.press("Escape")
    shown = judge(page)
    expect(page.locator("#notice")).to_contain_text("No connection")
    page.context.unroute(JUDGEMENT)
    page.reload()
    gone(page, shown)
    (vote,) = world.votes()
    assert (abs(vote.answer.strength), vote.answer.reason) == (3, "because")


def test_what_was_typed_outlives_a_reload(world: World):
    project_of_pairs(world.store, 1)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.keyboard.press("7")
    page.keyboard.press("e")
    page.keyboard.type("half a thou")
    page.reload()
    expect(page.locator("[name=reason]")).to_have_value("half a thou")
    assert page.locator("[name=verdict]:checked").get_attribute("value") == "3"


def test_a_second_tab_is_told_and_can_look(world: World):
    project_of_pairs(world.store, 2)
    first = world.open(person(world.store, "ann"), "/p/work")
    second = first.context.new_page()
    second.goto(world.url + "/p/work")
    assert first.locator("#task").get_attribute("data-id") == second.locator("#task").get_attribute("data-id")
    gone(first, judge(first, "1"))
    shown = judge(second, "8")
    notice = second.locator("#notice")
    expect(notice).to_contain_text("another tab")
    notice.get_by_role("button", name="Look at it").click()
    expect(second.locator(".banner")).to_contain_text("earlier answer")
    assert second.locator(".reply .md").first.inner_text() == shown
    assert second.locator("[name=verdict]:checked").get_attribute("value") == "-4"
    second.keyboard.press("Escape")
    expect(second.locator(".reply .md").first).not_to_have_text(shown)
    assert [abs(vote.answer.strength) for vote in world.votes()] == [4]


def test_an_answer_survives_the_end_of_the_session(world: World):
    project_of_pairs(world.store, 2)
    account = person(world.store, "ann")
    page = world.open(account, "/p/work")
    page.context.clear_cookies()
    shown = judge(page)
    link = page.locator("#notice a")
    expect(link).to_have_attribute("href", "/login?next=/p/work")
    assert len(kept(page)) == 1
    world.log_in(page.context, account)
    gone(page, shown)
    assert len(world.votes()) == 1


def test_somebody_elses_answer_is_not_sent(world: World):
    project_of_pairs(world.store, 2, overlap=2)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.context.route(JUDGEMENT, lambda route: route.abort())
    judge(page)
    expect(page.locator("#notice")).to_contain_text("No connection")
    page.context.unroute(JUDGEMENT)
    page.context.clear_cookies()
    world.log_in(page.context, person(world.store, "ben"))
    page.reload()
    page.wait_for_timeout(500)
    assert len(kept(page)) == 1
    assert world.votes() == []


def test_a_refused_answer_is_shown_and_kept(world: World):
    project_of_pairs(world.store, 2)
    page = world.open(person(world.store, "ann"), "/p/work")
    page.route(JUDGEMENT, lambda route: route.fulfill(status=422, json={"detail": "too strange"}), times=1)
    page.keyboard.press("e")
    page.keyboard.type("my long thoughts")
    page.keyboard.press("Escape")
    judge(page)
    notice = page.locator("#notice")
    expect(notice).to_contain_text("too strange")
    expect(notice).to_contain_text("my long thoughts")
    assert kept(page) == []
    page.reload()
    expect(page.locator("[name=reason]")).to_have_value("my long thoughts")


def test_two_people_have_their_own_answers(world: World):
    project_of_pairs(world.store, 1, overlap=2)
    for name, key in (("ann", "1"), ("ben", "8")):
        page = world.open(person(world.store, name), "/p/work")
        judge(page, key)
        expect(page.locator("#heading")).to_contain_text("All judged")
    assert len({vote.account for vote in world.votes()}) == 2
