"""The site behind a proxy: people log in and answer, links stay within the prefix, other sites' pages stay out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from collect_visitor import KEY, hidden
from collect_world import ON_SQLITE, first_is_better, project_of_pairs
from thumbs.collect.store import CollectStore
from thumbs.collect.web.app import create_app
from thumbs.collect.web.sessions import csrf_token
from thumbs.collect.web.site import Site
from thumbs.web.proxies import proxies_of

pytestmark = ON_SQLITE

NAME, UPSTREAM, PASSWORD = "collect.example.org", "127.0.0.1:8765", "correct horse battery"
PROXY = "10.0.0.7"


class Proxied:
    """A browser whose requests a proxy hands on with the headers `adds`; `strips`: without the prefix."""

    def __init__(self, app: Starlette, origin: str, adds: Mapping[str, str], prefix: str = "", *, strips: bool = True):
        scheme = origin.partition(":")[0]
        self.http = TestClient(app, base_url=f"{scheme}://{UPSTREAM}", client=(PROXY, 5000), follow_redirects=False)
        self.origin, self.adds, self.prefix, self.strips = origin, dict(adds), prefix, strips
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None, **more: Any) -> httpx.Response:
        """`path` as the browser knows it, with the prefix."""
        assert path.startswith(self.prefix)
        inner = (path[len(self.prefix) :] or "/") if self.strips else path
        sent = {**self.adds, **(headers or {}), "Cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items())}
        if method != "GET":
            sent.setdefault("Origin", self.origin)
        response = self.http.request(method, inner, headers=sent, **more)
        for line in response.headers.get_list("set-cookie"):
            name, _, value = line.partition(";")[0].partition("=")
            assert (self.prefix or "/") in re.findall(r"(?i)path=([^;]*)", line)
            self.cookies[name] = value
        return response

    def log_in(self, headers: Mapping[str, str] | None = None) -> httpx.Response:
        csrf = hidden(self.ask("GET", f"{self.prefix}/login"))
        form = {"csrf": csrf, "handle": "ann", "password": PASSWORD, "next": "/p/work"}
        return self.ask("POST", f"{self.prefix}/login", headers, data=form)

    def judge(self, store: CollectStore) -> httpx.Response:
        """Answers the first task as the page's script does."""
        page = self.ask("GET", f"{self.prefix}/p/work").text
        task = store.work.claim(store.projects.find("work").id, store.people.find("ann").id)
        secret = next(value for name, value in self.cookies.items() if "login" in name)
        assert csrf_token(secret) in page
        assert not isinstance(task, str)
        headers = {"X-CSRF-Token": csrf_token(secret), "Idempotency-Key": "key-of-ann"}
        address = f"{self.prefix}/api/assignments/{task.assignment}/judgement"
        return self.ask("PUT", address, headers, json={"answer": first_is_better(task)})


def site(store: CollectStore, **settings: Any) -> Starlette:
    project_of_pairs(store, 2)
    store.people.add("ann", "Ann", "owner", PASSWORD)
    hosts = settings.pop("hosts", ("localhost", "127.0.0.1", NAME))
    return create_app(Site(store, KEY, hosts=hosts, **settings))


HANDED_ON: dict[str, tuple[dict[str, Any], str, dict[str, str]]] = {
    "the browser's Host": ({"names": (NAME,), "secure": True}, f"https://{NAME}", {"Host": NAME}),
    "the Host with its port": ({"names": (NAME,), "secure": True}, f"https://{NAME}:8443", {"Host": f"{NAME}:8443"}),
    "the Host without its port": ({"names": (NAME,), "secure": True}, f"https://{NAME}:8443", {"Host": NAME}),
    "nginx's own Host": ({"names": (NAME,), "secure": True}, f"https://{NAME}", {"Host": UPSTREAM}),
    "nginx's own Host, by http": ({"names": (NAME,)}, f"http://{NAME}", {"Host": UPSTREAM}),
    "a name with its port": (
        {"names": (f"{NAME}:8443",), "secure": True},
        f"https://{NAME}:8443",
        {"Host": UPSTREAM},
    ),
    "X-Forwarded-Host of a trusted proxy": (
        {"proxies": proxies_of([PROXY]), "secure": True},
        f"https://{NAME}",
        {"Host": UPSTREAM, "X-Forwarded-Host": NAME, "X-Forwarded-Proto": "https"},
    ),
    "host and port of a trusted proxy": (
        {"proxies": proxies_of(["10.0.0.0/24"])},
        f"https://{NAME}:8443",
        {"Host": UPSTREAM, "X-Forwarded-Host": NAME, "X-Forwarded-Port": "8443", "X-Forwarded-Proto": "https"},
    ),
    "a browser that says so itself": ({}, f"https://{NAME}", {"Host": UPSTREAM, "Sec-Fetch-Site": "same-origin"}),
}


@pytest.mark.parametrize("case", HANDED_ON)
def test_people_log_in_and_answer_through_a_proxy(store: CollectStore, case: str):
    settings, origin, adds = HANDED_ON[case]
    browser = Proxied(site(store, **settings), origin, adds)
    entered = browser.log_in()
    assert (entered.status_code, entered.headers.get("location")) == (303, "/p/work")
    assert browser.judge(store).status_code == 201


@pytest.mark.parametrize("case", ["nginx's own Host", "host and port of a trusted proxy"])
def test_pages_of_other_sites_are_refused_behind_a_proxy(store: CollectStore, case: str):
    settings, origin, adds = HANDED_ON[case]
    browser = Proxied(site(store, **settings), origin, adds)
    for other in ("null", "https://evil.example", f"http://{NAME}", f"https://sub.{NAME}"):
        assert browser.log_in({"Origin": other}).status_code == 403, other
    assert browser.log_in({"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert browser.log_in().status_code == 303


def test_forwarded_headers_of_strangers_are_not_believed(store: CollectStore):
    app = site(store, proxies=proxies_of(["192.0.2.1"]))
    adds = {"Host": UPSTREAM, "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert Proxied(app, "https://evil.example", adds).log_in().status_code == 403
    stranger = Proxied(app, f"http://{UPSTREAM}", {"Host": UPSTREAM, "X-Forwarded-Prefix": "/evil"})
    assert stranger.ask("GET", "/").headers["location"] == "/login?next=/"


PREFIXED: list[tuple[dict[str, Any], dict[str, str], bool]] = [
    ({"prefix": "/label"}, {}, False),
    ({"proxies": proxies_of([PROXY])}, {"X-Forwarded-Prefix": "/label/"}, True),
]


@pytest.mark.parametrize(("settings", "adds", "strips"), PREFIXED)
def test_every_link_of_every_page_stays_within_the_prefix(
    store: CollectStore, settings: dict[str, Any], adds: dict[str, str], strips: bool
):
    app = site(store, **settings)
    browser = Proxied(app, f"http://{UPSTREAM}", {"Host": UPSTREAM, **adds}, "/label", strips=strips)
    assert browser.ask("GET", "/label/").headers["location"] == "/label/login?next=/"
    assert browser.log_in().headers["location"] == "/label/p/work"
    assert browser.judge(store).status_code == 201
    todo, seen = ["/label/"], set[str]()
    while todo:
        path = todo.pop()
        if path in seen or "lang=" in path or len(seen) > 60:
            continue
        seen.add(path)
        response = browser.ask("GET", path)
        if response.is_redirect:
            todo.append(response.headers["location"])
            continue
        assert response.status_code == 200, path
        if "html" in response.headers["content-type"]:
            found = re.findall(r'(href|action|src)="(/[^"]*)"', response.text)
            assert not [link for _, link in found if not link.startswith("/label/")], path
            todo += [link.replace("&amp;", "&").partition("#")[0] for kind, link in found if kind != "action"]
    assert {"/label/admin", "/label/admin/p/work/settings", "/label/p/work"} <= seen
    assert any("/label/static/" in path for path in seen)


def test_an_invitation_is_written_as_people_reach_the_site(store: CollectStore):
    app = site(store, names=(NAME,), secure=True, prefix="/label")
    browser = Proxied(app, f"https://{NAME}", {"Host": UPSTREAM}, "/label")
    browser.log_in()
    secret = next(value for name, value in browser.cookies.items() if "login" in name)
    form = {"csrf": csrf_token(secret), "action": "new", "handle": "ben", "role": "annotator"}
    page = browser.ask("POST", "/label/admin/p/work/people", data=form)
    assert f'value="https://{NAME}/label/invite/' in page.text
