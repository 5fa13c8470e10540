"""The team's pages in a browser: accessible, within their policy, as wide as the window, in every dress."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from browser.world import World
from example_files import load_file

FILL = load_file(Path(__file__).parents[2] / "benchmarks" / "collect_fill.py")
HERE = "/admin/p/scale"
PAGES = {
    "admin-home": "/admin",
    "admin-new": "/admin/new",
    "admin-team": "/admin/team",
    "admin-overview": HERE,
    "admin-people": f"{HERE}/people",
    "admin-items": f"{HERE}/items?show=disputed",
    "admin-item": f"{HERE}/items/2",
    "admin-gold": f"{HERE}/gold",
    "admin-import": f"{HERE}/import",
    "admin-export": f"{HERE}/export",
    "admin-settings": f"{HERE}/settings",
    "admin-log": f"{HERE}/log?check=1",
    "results": "/p/scale/results",
    "results-samples": "/p/scale/results/samples",
}


@pytest.fixture
def lead(world: World) -> int:
    """An owner of a project that six people have worked on."""
    owner = world.store.people.add("olga", "Olga", "owner").id
    project = FILL.fill(world.store, FILL.Size(items=120, overlap=4, people=6))
    world.store.projects.advise(project.id, "# Be fair\n\nRead both replies to the end.", owner)
    world.store.projects.advise(project.id, "# Be fair\n\nRead both replies to the end, twice.", owner)
    return owner


def wide(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.mark.parametrize(
    ("dress", "options"),
    [
        ("", {"viewport": {"width": 1180, "height": 900}}),
        ("dark", {"viewport": {"width": 1180, "height": 900}, "color_scheme": "dark"}),
        ("phone", {"viewport": {"width": 380, "height": 800}, "locale": "zh-CN"}),
    ],
)
def test_axe_finds_nothing_and_nothing_sticks_out(
    world: World, lead: int, picture: Callable[[Page, str], None], dress: str, options: dict
):
    page = world.window(lead, bypass_csp=True, **options).new_page()
    found = {}
    for name, path in PAGES.items():
        page.goto(world.url + path)
        if not dress:
            picture(page, name)
        violations = [(one["id"], one["nodes"][0]["html"]) for one in Axe().run(page).response["violations"]]
        if violations or wide(page) > 0:
            found[name] = (violations, wide(page))
    assert found == {}


def test_the_pages_stay_within_their_policy_and_ask_nobody_else(world: World, lead: int):
    page = world.open(lead, "/admin")
    for path in PAGES.values():
        page.goto(world.url + path)
        assert page.evaluate("window.broken") == []
    assert all(address.startswith((world.url, "data:")) for address in world.requested)


def test_a_team_lead_finds_why_an_item_is_disputed_and_makes_it_gold(world: World, lead: int):
    page = world.open(lead, HERE)
    page.get_by_role("link", name="most disputed").click()
    page.locator("ol.items a").first.click()
    page.get_by_text("A is better").wait_for()
    page.get_by_text("B is better").wait_for()
    page.get_by_role("button", name="Make this answer a gold item").first.click()
    page.get_by_text("This is the new gold item").wait_for()
    number = int(page.url.partition("/items/")[2].partition("?")[0])
    assert world.store.items.get(number).role == "gold"


def test_replies_are_blind_until_they_are_revealed(world: World, lead: int):
    page = world.open(lead, "/p/scale/results/samples")
    sample = page.locator("article.sample").first
    assert not sample.get_by_text("runs/").first.is_visible()
    sample.get_by_text("Reveal who wrote them").click()
    assert sample.get_by_text("runs/").first.is_visible()


def test_a_project_is_set_up_and_an_export_fetched_by_clicks_alone(world: World, lead: int):
    page = world.open(lead, "/admin")
    page.get_by_role("link", name="New project").click()
    page.get_by_label("Short name").fill("mine")
    page.get_by_label("Name", exact=True).fill("Mine")
    page.get_by_role("button", name="Create the project").click()
    page.get_by_label("Or paste lines").fill('{"prompt": "hi", "replies": ["one", "two"]}')
    page.get_by_role("button", name="Add items").click()
    page.get_by_text("1 new items").wait_for()
    page.goto(f"{world.url}{HERE}/export")
    page.get_by_role("button", name="Create the export").click()
    for _ in range(50):
        if page.get_by_role("link", name="Download").count():
            break
        page.wait_for_timeout(100)
        page.reload()
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename == "scale-preferences.jsonl"
    assert waiting.value.path().read_text().count("\n") > 100
