"""A browser, or a script, at the site of `thumbs collect`, for tests."""

from __future__ import annotations

import re
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.testclient import TestClient

from thumbs.collect.store import CollectStore
from thumbs.collect.web.app import create_app
from thumbs.collect.web.sessions import csrf_token
from thumbs.collect.web.site import Site

KEY = b"k" * 32
TOKEN = "the-token-of-the-terminal"  # noqa: S105


def team_app(store: CollectStore, **settings: Any) -> Starlette:
    """The site of a team."""
    return create_app(Site(store, KEY, **settings))


def local_app(store: CollectStore) -> Starlette:
    """The site of the person at this machine."""
    return create_app(Site(store, KEY, local=True, token=TOKEN))


class Visitor:
    """One browser; `account`: logged in from the start."""

    def __init__(self, app: Starlette, account: int | None = None, url: str = "http://localhost") -> None:
        self.store: CollectStore = app.state.site.store
        self.http = TestClient(app, base_url=url, follow_redirects=False, raise_server_exceptions=False)
        self.csrf = ""
        if account is not None:
            secret = self.store.people.log_in(account)
            self.http.cookies.set("collect_login", secret)
            self.csrf = csrf_token(secret)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.http.get(path, **more)

    def json(self, path: str, body: Any = None, method: str = "POST", **headers: str) -> httpx.Response:
        """As our script sends it."""
        sent = {"X-CSRF-Token": self.csrf, "Origin": "http://localhost", **headers}
        return self.http.request(method, path, json={} if body is None else body, headers=sent)

    def form(self, path: str, **fields: str) -> httpx.Response:
        """As a form of the page at `path` sends it, which is asked for its hidden field where there is no session."""
        csrf = self.csrf or hidden(self.get(path))
        return self.http.post(path, data={"csrf": csrf, **fields}, headers={"Origin": "http://localhost"})


class Script:
    """A program with an API token."""

    def __init__(self, app: Starlette, token: str) -> None:
        self.http = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
        self.http.headers["Authorization"] = f"Bearer {token}"


def hidden(page: httpx.Response, name: str = "csrf") -> str:
    """The value of a hidden field, "" where there is none."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page.text)
    return found.group(1) if found else ""
