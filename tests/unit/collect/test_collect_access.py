"""Who gets in, by which doors, and what is refused at all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from collect_visitor import TOKEN, Visitor, local_app, team_app
from collect_world import ON_SQLITE, Clock, person, project_of_pairs
from thumbs.collect.people import TokenScope
from thumbs.collect.records import Role
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import METADATA

pytestmark = ON_SQLITE

ROLES: tuple[Role, ...] = ("owner", "admin", "reviewer", "annotator", "viewer")
SCOPES: tuple[TokenScope, ...] = ("ingest", "export", "admin")

TOKENS = {f"{scope} token" for scope in SCOPES}
ALL = {"nobody", *ROLES, *TOKENS}
IN = set(ROLES)
ANNOTATE = {"owner", "admin", "reviewer", "annotator"}
READ = {"owner", "admin", "reviewer", "viewer"}
CHANGE = {"owner", "admin"}
INGEST, EXPORT = {"ingest token", "admin token"}, {"export token", "admin token"}

WHO_MAY: dict[str, set[str]] = {
    "GET /": IN,
    "GET /p/{slug}": ANNOTATE,
    "GET /api/session": ANNOTATE,
    "POST /api/projects/{slug}/claim": ANNOTATE,
    "GET /api/projects/{slug}/history": ANNOTATE,
    "GET /api/projects/{slug}/guidelines": ANNOTATE,
    "GET /api/projects/{slug}/help": ANNOTATE,
    "POST /api/projects/{slug}/chat": ANNOTATE,
    "POST /api/chat/{id}/turns": ANNOTATE,
    "POST /api/chat/{id}/end": ANNOTATE,
    "GET /api/assignments/{id}": ANNOTATE,
    "PUT /api/assignments/{id}/judgement": ANNOTATE,
    "POST /api/assignments/{id}/revisions": ANNOTATE,
    "POST /api/assignments/{id}/release": ANNOTATE,
    "POST /api/assignments/{id}/heartbeat": ANNOTATE,
    "GET /p/{slug}/results": READ,
    "GET /p/{slug}/results/samples": READ,
    "GET /admin": READ,
    "GET /admin/new": READ,
    "POST /admin/new": CHANGE,
    "GET /admin/team": READ,
    "POST /admin/team": CHANGE,
    "GET /admin/p/{slug}": READ,
    "GET /admin/p/{slug}/log": READ,
    "GET /admin/p/{slug}/people": READ,
    "POST /admin/p/{slug}/people": CHANGE,
    "GET /admin/p/{slug}/items": READ,
    "GET /admin/p/{slug}/items/{item:int}": READ,
    "POST /admin/p/{slug}/items/{item:int}": CHANGE,
    "GET /admin/p/{slug}/gold": READ,
    "GET /admin/p/{slug}/import": READ,
    "POST /admin/p/{slug}/import": CHANGE,
    "GET /admin/p/{slug}/export": READ,
    "POST /admin/p/{slug}/export": CHANGE,
    "GET /admin/p/{slug}/export/{export:int}": READ,
    "GET /admin/p/{slug}/settings": READ,
    "POST /admin/p/{slug}/settings": CHANGE,
    "POST /admin/p/{slug}/settings/question": CHANGE,
    "POST /admin/p/{slug}/settings/guidelines": CHANGE,
    "POST /admin/p/{slug}/settings/state": CHANGE,
    "GET /login": ALL,
    "GET /login/oidc": ALL,  # 404 on a site without a provider
    "GET /login/oidc/back": ALL,
    "POST /login": set(),
    "POST /logout": IN,
    "GET /invite/{secret}": ALL,
    "POST /invite/{secret}": ALL,
    "GET /join/{slug}": ALL,
    "GET /join/{slug}/mturk": ALL,
    "PUT /api/v1/projects/{slug}/items": INGEST,
    "GET /api/v1/projects/{slug}/stats": EXPORT,
    "GET /api/v1/projects/{slug}/agreement": EXPORT,
    "GET /api/v1/projects/{slug}/leaderboard": EXPORT,
    "POST /api/v1/projects/{slug}/exports": EXPORT,
    "GET /api/v1/projects/{slug}/exports/{export:int}": EXPORT,
    "GET /api/v1/projects/{slug}/exports/{export:int}/file": EXPORT,
    "GET /healthz": ALL,
}
"""A route that is not here fails a test: somebody has to decide. Nobody may log in without a password."""
CLAIMS = {"GET /p/{slug}"}
"""What a GET may change all the same: the page comes with the person's first task."""


def routes(app: Starlette) -> list[str]:
    """Method and path of each."""
    found = [route for route in app.routes if isinstance(route, Route)]
    return [f"{method} {route.path}" for route in found for method in sorted((route.methods or set()) - {"HEAD"})]


def filled(path: str) -> str:
    """The path with something in its places."""
    return re.sub(r"{\w+:int}", "1", path.replace("{slug}", "work")).replace("{id}", "x" * 32).replace("{secret}", "s")


def ask(visitor: Visitor, route: str) -> httpx.Response:
    """As its own page or script would ask."""
    method, path = route.split(" ")
    path = filled(path)
    if method == "GET":
        return visitor.get(path)
    if path.startswith("/api/"):
        return visitor.json(path, None, method, **{"If-Match": "1"})
    return visitor.http.post(path, data={"csrf": visitor.csrf})


def everything(store: CollectStore) -> dict[str, str]:
    """All rows of all tables."""
    with store.db.reading() as db:
        return {table.name: repr(db.execute(select(table)).all()) for table in METADATA.sorted_tables}


def test_somebody_decided_of_every_route_who_may_use_it(app: Starlette):
    assert sorted(routes(app)) == sorted(WHO_MAY)


def test_every_route_lets_in_who_may_and_nobody_else(store: CollectStore, app: Starlette):
    accounts = {role: person(store, role, role) for role in ROLES}
    tokens = {f"{scope} token": store.people.add_token(accounts["owner"], scope) for scope in SCOPES}
    wrong = []
    for route, may in WHO_MAY.items():
        for who in sorted(ALL):
            asking = Visitor(app, accounts.get(who))
            if who in tokens:
                asking.http.headers["Authorization"] = f"Bearer {tokens[who]}"
            response = ask(asking, route)
            to_login = response.headers.get("location", "").startswith("/login?")
            refused = to_login or response.status_code in (401, 403)
            if refused != (who not in may) or response.status_code >= 500:
                wrong.append((route, who, response.status_code, response.text[:300]))
    assert wrong == []


def test_a_get_changes_nothing(store: CollectStore, app: Starlette):
    visitors = [Visitor(app, person(store, role, role)) for role in ROLES]
    for route in WHO_MAY:
        before = everything(store)
        if route.startswith("GET ") and route not in CLAIMS:
            for visitor in visitors:
                ask(visitor, route)
            assert everything(store) == before, route


WRITES = [route for route in WHO_MAY if not route.startswith("GET ")]


def test_nothing_changes_without_the_token_of_the_session(store: CollectStore, app: Starlette):
    owner = person(store, "olga", "owner")
    visitor, other = Visitor(app, owner), Visitor(app, owner).csrf
    before = everything(store)
    codes: dict[str, set[int]] = {}
    for route in (route for route in WRITES if "/v1/" not in route):
        method, path = route.split(" ")
        for csrf in ("", "x", other, "é"):
            headers = {"X-CSRF-Token": csrf.encode("utf-8"), "If-Match": b"1"}
            if path.startswith("/api/"):
                response = visitor.http.request(method, filled(path), json={}, headers=headers)
            else:
                response = visitor.http.post(filled(path), data={"csrf": csrf} if csrf else {"x": "y"})
            codes.setdefault(route, set()).add(response.status_code)
    assert everything(store) == before
    void = {"POST /invite/{secret}": {404}}  # there is no such invitation
    assert codes == {route: {403} for route in codes} | void


def test_pages_of_other_sites_are_refused(store: CollectStore, app: Starlette):
    visitor = Visitor(app, person(store, "olga", "owner"))
    before = everything(store)
    let_in = []
    for route in WRITES:
        method, path = route.split(" ")
        for origin in ("https://evil.example", "null", "http://localhost:1", "http://localhost.evil.example", ""):
            headers = {"Origin": origin, "X-CSRF-Token": visitor.csrf}
            response = visitor.http.request(method, filled(path), json={}, headers=headers)
            if response.status_code != 403:
                let_in.append((route, origin, response.status_code))
    assert let_in == []
    assert everything(store) == before


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_only_json_is_taken_for_json(store: CollectStore, app: Starlette, kind: str):
    """A form of another site can send the other kinds without being asked."""
    visitor = Visitor(app, person(store, "ann"))
    headers = {"X-CSRF-Token": visitor.csrf, "Content-Type": kind}
    response = visitor.http.post("/api/projects/work/claim", content=b"{}", headers=headers)
    assert response.status_code == 415
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        b'{"a": "\xc3("}',
        b"[]",
        b'"x"',
        b"null",
        b"{",
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b"\0",
    ],
)
def test_bodies_that_are_no_object(store: CollectStore, app: Starlette, body: bytes):
    visitor = Visitor(app, person(store, "ann"))
    headers = {"X-CSRF-Token": visitor.csrf, "Content-Type": "application/json"}
    response = visitor.http.post("/api/projects/work/claim", content=body, headers=headers)
    assert response.status_code == 400
    assert response.json()["title"] == "Bad Request"


def test_bodies_that_are_too_long_end_early(store: CollectStore, app: Starlette):
    visitor = Visitor(app, person(store, "ann"))
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 100_000
            yield b" " * 100_000

    headers = {"X-CSRF-Token": visitor.csrf, "Content-Type": "application/json"}
    response = visitor.http.post("/api/projects/work/claim", content=endless(), headers=headers)
    assert response.status_code == 413
    form = visitor.http.post("/logout", data={"csrf": visitor.csrf, "x": "y" * 2_000_000})
    assert form.status_code == 413
    assert visitor.get("/api/session").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.2", "", "a b", "localhost:x@evil"])
def test_other_names_than_this_machines_are_refused(store: CollectStore, host: str):
    """A page of another site can make its own name mean 127.0.0.1."""
    project_of_pairs(store, 1)
    visitor = Visitor(local_app(store))
    for path in ("/", f"/?token={TOKEN}", "/api/session", "/healthz"):
        response = visitor.get(path, headers={"Host": host})
        assert response.status_code == 400
        assert "set-cookie" not in response.headers


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1", "[::1]:8765", "LOCALHOST"])
def test_this_machines_own_names_are_served(store: CollectStore, host: str):
    assert Visitor(local_app(store)).get("/healthz", headers={"Host": host}).status_code == 200


def test_a_proxys_name_is_served_where_it_was_told(store: CollectStore):
    visitor = Visitor(team_app(store, hosts=("collect.example.org",)))
    assert visitor.get("/login", headers={"Host": "collect.example.org"}).status_code == 200
    assert visitor.get("/login", headers={"Host": "evil.example"}).status_code == 400


CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types collect"
)


@pytest.mark.parametrize(
    "path", ["/", "/login", "/p/work", "/nothing-here", "/api/session", "/healthz", "/%00", "/p/work%0d%0aX: y"]
)
def test_every_response_says_what_browsers_must_obey(store: CollectStore, app: Starlette, path: str):
    for visitor in (Visitor(app), Visitor(app, person(store, "ann"))):
        headers = visitor.get(path, headers={"X-Request-Id": "mine"}).headers
        assert headers["content-security-policy"] == CSP
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])
        assert "access-control-allow-origin" not in headers
        assert "x" not in headers


def test_a_bug_of_ours_tells_nothing_and_obeys_too(
    store: CollectStore, app: Starlette, monkeypatch: pytest.MonkeyPatch
):
    visitor = Visitor(app, person(store, "olga", "owner"))

    def fail(*_: object) -> None:
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(store.projects, "all", fail)
    response = visitor.get("/admin")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.headers["content-security-policy"] == CSP
    assert response.headers["x-request-id"] in response.text


def test_files_come_with_what_lets_browsers_keep_them(app: Starlette):
    visitor = Visitor(app)
    first = visitor.get("/static/collect.css")
    assert first.status_code == 200
    assert re.fullmatch(r"public, max-age=\d+", first.headers["cache-control"])
    assert visitor.get("/static/collect.css", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert first.headers["content-security-policy"] == CSP


@pytest.mark.parametrize(
    "path",
    [
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "..%5capp.py",
        "/etc/passwd",
        "%00",
        "collect.css%00",
        ".",
        "",
        "a" * 5000,
    ],
)
def test_no_other_files_are_served(app: Starlette, path: str):
    response = TestClient(app, base_url="http://localhost").get(f"/static/{path}")
    assert response.status_code == 404
    assert "import" not in response.text


@pytest.mark.parametrize(
    "part", ["%00", "a%00b", "%ff", "%F0%9F%98%80", "%2e%2e%2f", "%0d%0aX-Y: z", "a" * 3000, "'--"]
)
def test_strange_addresses_are_not_found(database: Path | str, clock: Clock, part: str):
    with_store = CollectStore(database, clock=clock)
    try:
        project_of_pairs(with_store, 1)
        visitor = Visitor(team_app(with_store), person(with_store, "olga", "owner"))
        paths = [f"/p/{part}", f"/admin/p/{part}", f"/api/assignments/{part}", f"/invite/{part}", f"/join/{part}"]
        for path in [*paths, "/admin/p/work/items/" + "9" * 30, f"/api/projects/{part}/history"]:
            response = visitor.get(path)
            assert response.status_code in (400, 404), (path, response.status_code)
            assert "x-y" not in response.headers
        for name in ("handle", "password", "next"):
            assert visitor.http.post("/login", data={"csrf": visitor.csrf, name: "a\0b"}).status_code == 400
    finally:
        with_store.close()
