"""The doors: the terminal's address, passwords, invitations, and how often one may try them."""

from __future__ import annotations

import contextlib
import http.cookies
import re
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from collect_visitor import TOKEN, Script, Visitor, hidden, local_app, team_app
from collect_world import person, project_of_pairs
from thumbs.collect import passwords
from thumbs.collect.people import LOGIN_DAYS
from thumbs.collect.store import CollectStore
from thumbs.collect.web import limits
from thumbs.collect.web.limits import Buckets
from thumbs.collect.web.login import local_path
from thumbs.collect.web.words import words

PASSWORD = "correct horse battery"  # noqa: S105


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The doors do not depend on the database."""
    return tmp_path / "collect.db"


@pytest.fixture(autouse=True)
def _quick_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cost is tested with the accounts."""
    monkeypatch.setattr(passwords, "HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    monkeypatch.setattr(passwords, "_NOBODY", passwords.HASHER.hash("nobody"))


def test_the_terminals_address_opens_a_session_and_loses_its_token(store: CollectStore):
    project_of_pairs(store, 1)
    visitor = Visitor(local_app(store))
    entered = visitor.get(f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert visitor.get("/").headers["location"] == "/p/work"
    page = visitor.get("/p/work")
    assert page.status_code == 200
    assert TOKEN not in page.text
    assert [account.role for account in store.people.all()] == ["owner"]
    assert visitor.get(f"/?next=/p/work&token={TOKEN}").headers["location"] == "/p/work"
    assert visitor.get(f"/?next=//elsewhere&token={TOKEN}").headers["location"] == "/"
    again = visitor.get(f"/?token={TOKEN}")
    assert (again.headers["location"], again.headers.get("set-cookie")) == ("/", None)


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=%00", "?token=%ff", f"?token={TOKEN}x"])
def test_without_the_token_the_page_says_where_it_is(store: CollectStore, query: str):
    response = Visitor(local_app(store)).get(f"/{query}", headers={"Accept-Language": "en"})
    assert response.status_code == 401
    assert words("en")["login.local"] in response.text
    assert "set-cookie" not in response.headers
    assert store.people.all() == []


def test_a_teams_site_knows_no_token(store: CollectStore, app: Starlette):
    assert Visitor(app).get("/?token=").headers["location"] == "/login?next=/"
    assert store.people.all() == []


def test_a_local_site_takes_no_passwords(store: CollectStore):
    store.people.add("ann", "", "owner", PASSWORD)
    visitor = Visitor(local_app(store))
    assert visitor.get("/login").status_code == 401
    assert visitor.form("/login", handle="ann", password=PASSWORD).status_code == 403


def log_in(visitor: Visitor, handle: str = "ann", password: str = PASSWORD, after: str = "") -> httpx.Response:
    return visitor.form("/login", handle=handle, password=password, next=after)


def cookies_of(response: httpx.Response) -> dict[str, http.cookies.Morsel[str]]:
    jar = http.cookies.SimpleCookie()
    for line in response.headers.get_list("set-cookie"):
        jar.load(line.replace("; Partitioned", ""))
    return dict(jar)


def test_login_and_logout(store: CollectStore, app: Starlette):
    store.people.add("ann", "Ann", "annotator", PASSWORD)
    visitor = Visitor(app)
    assert visitor.get("/p/work").headers["location"] == "/login?next=/p/work"
    entered = log_in(visitor, after="/p/work")
    assert (entered.status_code, entered.headers["location"]) == (303, "/p/work")
    cookie = cookies_of(entered)["collect_login"]
    assert (cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]) == (True, "lax", "/", "")
    assert cookie["max-age"] == str(LOGIN_DAYS * 24 * 60 * 60)
    assert visitor.get("/p/work").status_code == 200
    copy = Visitor(app)
    copy.http.cookies.set("collect_login", cookie.value)
    assert copy.get("/p/work").status_code == 200
    left = visitor.http.post("/logout", data={"csrf": visitor.get("/api/session").json()["csrf"]})
    assert left.headers["location"] == "/login"
    for each in (visitor, copy):  # the server forgot it, not the browser alone
        assert each.get("/p/work").headers["location"] == "/login?next=/p/work"


def test_cookies_of_a_site_behind_https(store: CollectStore):
    store.people.add("ann", "", "annotator", PASSWORD)
    visitor = Visitor(team_app(store, secure=True), url="https://localhost")
    page = visitor.get("/login")
    entered = visitor.http.post(
        "/login",
        data={"csrf": hidden(page), "handle": "ann", "password": PASSWORD},
        headers={"Origin": "https://localhost"},
    )
    for response, name in ((page, "__Host-collect_visit"), (entered, "__Host-collect_login")):
        cookie = cookies_of(response)[name]
        assert (cookie["secure"], cookie["httponly"], cookie["domain"]) == (True, True, "")


def test_two_servers_of_one_machine_do_not_share_a_session(store: CollectStore, app: Starlette):
    """Browsers send a host's cookies to all its ports."""
    store.people.add("ann", "", "annotator", PASSWORD)
    names = set()
    for port in (8765, 8766):
        page = Visitor(app).get("/login", headers={"Host": f"localhost:{port}"})
        names |= set(cookies_of(page))
    assert names == {"collect_visit_8765", "collect_visit_8766"}
    page = Visitor(app).get("/login", headers={"Host": "[::1]"})  # the end of an address is not a port
    assert {name: cookie["max-age"] for name, cookie in cookies_of(page).items()} == {"collect_visit": ""}


def test_the_form_says_that_a_login_failed_only_when_one_did(app: Starlette):
    visitor = Visitor(app)
    failed = words("en")["login.failed"]
    assert failed not in visitor.get("/login", headers={"Accept-Language": "en"}).text
    csrf = hidden(visitor.get("/login"))
    sent = {"csrf": csrf, "handle": "x" * 150, "password": PASSWORD}
    page = visitor.http.post("/login", data=sent, headers={"Origin": "http://localhost", "Accept-Language": "en"})
    assert failed in page.text
    assert ("x" * 100 in page.text, "x" * 101 in page.text) == (True, False)


def test_tokens_are_tried_at_the_pace_of_an_address(app: Starlette):
    app.state.limits.address._rate, app.state.limits.address._burst = 1e-9, 2
    codes = [Script(app, f"guess-{n}").http.get("/api/session").status_code for n in range(4)]
    assert codes == [401, 401, 429, 429]


@pytest.mark.parametrize(
    ("handle", "password"), [("ann", "wrong password"), ("nobody", PASSWORD), ("", ""), ("a\nb", "x")]
)
def test_all_wrong_logins_get_one_answer(store: CollectStore, app: Starlette, handle: str, password: str):
    store.people.add("ann", "", "annotator", PASSWORD)
    response = log_in(Visitor(app), handle, password)
    expected = log_in(Visitor(app), "ann", "not this one")

    def without_what_was_typed(page: str) -> str:
        return re.sub(r'(name="(csrf|handle)" value=)"[^"]*"', r"\1", page)

    assert (response.status_code, expected.status_code) == (401, 401)
    assert without_what_was_typed(response.text) == without_what_was_typed(expected.text)
    assert "collect_login" not in cookies_of(response)


def test_a_session_that_somebody_planted_is_not_taken_over(store: CollectStore, app: Starlette):
    """Session fixation: whoever knows the cookie of before knows nothing of the one after."""
    store.people.add("ann", "", "annotator", PASSWORD)
    mallory = person(store, "mallory")
    victim = Visitor(app, mallory)
    planted = victim.http.cookies["collect_login"]
    entered = log_in(victim)
    assert entered.status_code == 303
    assert cookies_of(entered)["collect_login"].value != planted
    assert store.people.who(planted) is None
    assert store.people.who("chosen-by-mallory") is None


def test_whoever_is_disabled_is_out_with_the_next_request(store: CollectStore, app: Starlette):
    ann = person(store, "ann")
    visitor = Visitor(app, ann)
    assert visitor.json("/api/projects/work/claim").status_code == 200
    store.people.disable(ann)
    assert visitor.json("/api/projects/work/claim").status_code == 401


def test_a_page_kept_open_over_a_restart_can_send_its_answers(store: CollectStore, app: Starlette):
    visitor = Visitor(app, person(store, "ann"))
    restarted = Visitor(team_app(store))
    restarted.http.cookies, restarted.csrf = visitor.http.cookies, visitor.csrf
    assert restarted.json("/api/projects/work/claim").status_code == 200


TARGETS = [
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "javascript:alert(1)",
    "/p/work\r\nSet-Cookie: a=b",
    "evil.example",
    "/é",
    "/" + "a" * 1000,
    "",
]


def test_login_leads_nowhere_else(store: CollectStore, app: Starlette):
    store.people.add("ann", "", "annotator", PASSWORD)
    for target in TARGETS:
        assert hidden(Visitor(app).get("/login", params={"next": target}), "next") == "/"
        entered = log_in(Visitor(app), after=target)
        assert (entered.headers["location"], entered.headers.get("a")) == ("/", None), target


def test_paths_of_the_site_are_kept():
    assert [local_path(path) for path in ("/", "/p/work", "/admin/p/work?tab=1")] == [
        "/",
        "/p/work",
        "/admin/p/work?tab=1",
    ]


def test_passwords_are_tried_slowly(store: CollectStore, app: Starlette, monkeypatch: pytest.MonkeyPatch):
    tried: list[str] = []
    monkeypatch.setattr(store.people, "authenticate", lambda handle, _: tried.append(handle))
    visitor = Visitor(app)
    codes = [log_in(visitor, "ann", f"guess number {n}").status_code for n in range(17)]
    assert codes == [401] * 15 + [429] * 2
    assert len(tried) == 15
    last = log_in(visitor, "Ann ", "another guess")  # the same account
    assert (last.status_code, int(last.headers["retry-after"]) >= 1) == (429, True)
    assert log_in(visitor, "ben", "guess").status_code == 401  # others may still come from there
    many = [log_in(visitor, f"person{n}", "guess").status_code for n in range(60)]
    assert many[-1] == 429


def test_buckets_fill_again():
    now = [0.0]
    buckets = Buckets(rate=2.0, burst=3, clock=lambda: now[0])

    def taken(key: str) -> int:
        """How many can be taken at once."""
        for n in range(100):
            with contextlib.suppress(HTTPException):
                buckets.take(key)
                continue
            return n
        return 100

    assert (taken("a"), taken("a"), taken("b")) == (3, 0, 3)
    now[0] = 0.5
    assert taken("a") == 1
    now[0] = 100.0
    assert taken("a") == 3


def test_many_addresses_do_not_fill_the_memory():
    now = [0.0]
    buckets = Buckets(rate=1.0, burst=2, clock=lambda: now[0])
    for key in range(50_000):
        now[0] += 0.001
        buckets.take(key)
    assert len(buckets._left) <= 20_000


def test_fast_annotators_are_not_held_up(store: CollectStore, app: Starlette):
    """Ten judgements per second for a minute, each with its claim, is faster than anybody reads."""
    now = [0.0]
    app.state.limits.account._clock = lambda: now[0]
    visitor = Visitor(app, person(store, "ann"))
    for _ in range(60 * 10):
        now[0] += 0.1
        app.state.limits.account.take(1)
        app.state.limits.account.take(1)
    assert visitor.json("/api/projects/work/claim").status_code == 200


def test_an_account_that_asks_without_end_is_held_up(store: CollectStore, app: Starlette):
    ann, ben = person(store, "ann"), person(store, "ben")
    app.state.limits.account._clock = lambda: 0.0
    for _ in range(599):
        app.state.limits.account.take(ann)
    visitor = Visitor(app, ann)
    assert [visitor.get("/api/session").status_code for _ in range(3)] == [200, 429, 429]
    assert Visitor(app, ben).get("/api/session").status_code == 200


def test_invitations(store: CollectStore, app: Starlette):
    ann = store.people.add("ann", "", "reviewer")
    secret = store.people.invite(ann.id)
    visitor = Visitor(app)
    page = visitor.get(f"/invite/{secret}")
    assert "ann" in page.text
    wrong = visitor.form(f"/invite/{secret}", password=PASSWORD, again=PASSWORD + "x")
    short = visitor.form(f"/invite/{secret}", password="short", again="short")  # noqa: S106
    assert (wrong.status_code, short.status_code) == (422, 422)
    assert store.people.authenticate("ann", PASSWORD) is None
    entered = visitor.form(f"/invite/{secret}", password=PASSWORD, again=PASSWORD)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert visitor.get("/admin").status_code == 200
    assert visitor.get(f"/invite/{secret}").status_code == 404
    assert store.people.authenticate("ann", PASSWORD) is not None


def test_a_full_house_of_buckets_forgets_the_full_ones_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "_MOST_KEYS", 3)
    now = [0.0]
    buckets = Buckets(1.0, 2, clock=lambda: now[0])
    for key in ("busy", "busy", "calm", "mild"):
        buckets.take(key)
    now[0] = 1.0
    buckets.take("new")  # calm and mild may ask twice again, so they need no memory
    assert set(buckets._left) == {"busy", "new"}
    buckets.take("busy")
    with pytest.raises(HTTPException):
        buckets.take("busy")
    for key in ("one more", "and another"):  # the house is full of those who still owe: all are forgotten
        buckets.take(key)
    assert set(buckets._left) == {"and another"}


def test_strangers_ask_at_the_pace_of_an_address(app: Starlette):
    app.state.limits.address._rate, app.state.limits.address._burst = 1e-9, 2
    visitor = Visitor(app)
    assert [visitor.get("/login").status_code for _ in range(4)] == [200, 200, 429, 429]
