"""Middleware: who is calling, told by a session's cookie or by an API token."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, Literal, cast

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from thumbs.collect.people import LOGIN_DAYS
from thumbs.collect.web.requests import Caller, address_of
from thumbs.collect.web.site import Site, root_of, site_of

Kind = Literal["login", "embedded", "visit", "hit", "oidc"]
"""login: the secret of a session; embedded: the same within Mechanical Turk's page; visit: what the forms of somebody
who is not logged in are bound to; hit: the assignment of Mechanical Turk that is worked on, signed; oidc: a sign-in at
the identity provider that has begun, signed.
"""
_EMBEDDED = ("embedded", "hit")
"""Those of a page within another site's."""
_MOST_SECRET, _MOST_SIGNED = 200, 2000


def cookie_name(connection: HTTPConnection, kind: Kind) -> str:
    """Cookies of one host are shared by all its ports; the name keeps two servers of one machine apart."""
    port = connection.headers.get("host", "").rpartition(":")[2]
    name = f"collect_{kind}_{port}" if port.isascii() and port.isdigit() and len(port) <= 5 else f"collect_{kind}"
    if not site_of(connection).secure:
        return name
    return f"__Secure-{name}" if root_of(connection) else f"__Host-{name}"  # __Host- demands the path /


def set_cookie(response: Response, connection: HTTPConnection, kind: Kind, value: str) -> None:
    """Hands out a cookie that scripts cannot read and pages of other sites cannot send along with a POST."""
    age = LOGIN_DAYS * 86_400 if kind == "login" else None
    response.set_cookie(cookie_name(connection, kind), value, max_age=age, **_attributes(connection, kind))
    # Kept apart for each page that embeds us, so that browsers without third-party cookies keep it.
    if kind in _EMBEDDED:
        name, line = response.raw_headers[-1]
        response.raw_headers[-1] = (name, line + b"; Partitioned")


def delete_cookies(response: Response, connection: HTTPConnection) -> None:
    """Makes the browser forget the session."""
    for kind in ("login", "embedded"):
        drop_cookie(response, connection, kind)


def drop_cookie(response: Response, connection: HTTPConnection, kind: Kind) -> None:
    """Makes the browser forget one cookie."""
    response.delete_cookie(cookie_name(connection, kind), **_attributes(connection, kind))


def _attributes(connection: HTTPConnection, kind: Kind) -> dict[str, Any]:
    embedded = kind in _EMBEDDED
    path, secure = root_of(connection) or "/", site_of(connection).secure or embedded
    return {"path": path, "secure": secure, "httponly": True, "samesite": "none" if embedded else "lax"}


def csrf_token(secret: str) -> str:
    """What forms must carry. It tells nothing of `secret`, and stays over a restart, so that a page that kept answers
    while the server was away can send them.
    """
    # Not asgi-csrf: its token is a cookie of its own, which browsers do not send from within Mechanical Turk's page,
    # and it reads every form before the limits of size and rate do.
    return hmac.digest(secret.encode("utf-8", "replace"), b"csrf", hashlib.sha256).hex()


class Sessions:
    """Sets request.state.caller (or None), .secret, .csrf and .embedded; takes from the buckets of who calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Looks into the database for each request, so that whoever is disabled is out at once."""
        if scope["type"] != "http" or scope["state"]["path"].startswith("/static/"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        state, site, limits = request.state, site_of(request), request.app.state.limits
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            limits.address.take(address_of(request))
            state.caller = await self._by_token(site, token.strip())
        else:
            await self._by_cookie(request, site)
        if state.caller is None:
            limits.address.take(address_of(request))
        else:
            limits.account.take(state.caller.account.id)
        await self._app(scope, receive, send)

    async def _by_token(self, site: Site, token: str) -> Caller:
        found = await run_in_threadpool(site.store.people.token, token) if 0 < len(token) <= _MOST_SECRET else None
        if found is None:
            raise HTTPException(401, "this API token is unknown or revoked", {"WWW-Authenticate": "Bearer"})
        return Caller(found[0], "", cast("Literal['ingest', 'export', 'admin']", found[1]))

    async def _by_cookie(self, request: Request, site: Site) -> None:
        state = request.state
        for kind in ("login", "embedded"):
            secret = cookie_of(request, kind)
            account = await run_in_threadpool(site.store.people.who, secret) if secret else None
            if account is not None:
                state.secret, state.embedded, state.csrf = secret, kind == "embedded", csrf_token(secret)
                state.caller = Caller(account, state.csrf, "page")
                return
        visit = cookie_of(request, "visit")
        state.csrf = csrf_token(visit) if visit else ""


def begin_visit(request: Request) -> str:
    """The value of a new `visit` cookie, where the browser has none or not ours; the page's forms are bound to it."""
    visit = cookie_of(request, "visit") or secrets.token_urlsafe(24)
    request.state.csrf = csrf_token(visit)
    return visit


def cookie_of(connection: HTTPConnection, kind: Kind) -> str:
    """What a cookie of ours holds; "" for none, or one too long to be ours."""
    value = connection.cookies.get(cookie_name(connection, kind), "")
    return value if len(value) <= (_MOST_SIGNED if kind == "oidc" else _MOST_SECRET) else ""
