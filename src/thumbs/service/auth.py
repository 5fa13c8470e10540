"""Who is calling: tokens, and the short-lived credentials exchanged for them."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from thumbs.clients.store import Store
from thumbs.service.threads import Threads
from thumbs.storage import digest, is_away
from thumbs.web.signing import Signer

NOBODY = "local"
"""The owner of everything on a server without tokens."""
_CREDENTIAL = "credential"
_CREDENTIAL_S = 600
_REMEMBERED_S = 5.0

P = ParamSpec("P")
R = TypeVar("R")


def credential(connection: HTTPConnection) -> str:
    """The key that came: X-API-Key as the SDKs send it, a bearer token, or the password of HTTP Basic; else ""."""
    key = connection.headers.get("x-api-key", "").strip()
    scheme, _, value = connection.headers.get("authorization", "").partition(" ")
    if key or not value:
        return key
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
        except ValueError:
            return ""
    return ""


class Callers:
    """Tells the owner by the credential.

    A token `tml-…` may also be written `sk-…`: MinT's clients send that kind, Tinker's refuse it. Without `required`
    all callers are one, until there is a first token: then it is required for as long as the server lives. While the
    database is away, what was known when it went still holds.
    """

    def __init__(self, store: Store, threads: Threads, signer: Signer, *, required: bool) -> None:
        self.required = required
        self._store = store
        self._threads = threads
        self._signer = signer
        self._known: dict[str, tuple[str, float]] = {}
        self._away_since: float | None = None

    async def owner(self, key: str) -> str:
        """The owner of `key`; raises HTTPException 401 where keys are required and this one is not good."""
        if not self.required and not await self._asked(False, self._store.has_tokens):
            return NOBODY
        self.required = True
        if key.startswith("eyJ"):
            claims = self._signer.read(_CREDENTIAL, key)
            if claims is None or not claims.get("keyed"):  # the latter were given out when there was no key yet
                raise _unknown_key("the exchanged credential has expired or was not made by this server")
            return claims["sub"]
        return await self._owner_of_token("tml-" + key[3:] if key.startswith("sk-") else key)

    async def _asked(self, known: R, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the store answers, or what is known where it is away."""
        try:
            found = await self._threads.record(function, *args, **kwargs)
        except Exception as error:
            if not is_away(error) or known is None:
                raise
            self._away_since = self._away_since or time.monotonic()
            return known
        self._away_since = None
        return found

    def exchange(self, owner: str) -> str:
        """A credential that stands for a key for ten minutes; no longer, because it outlives a revoked key."""
        now = int(time.time())
        claims = {
            "sub": owner,
            "org_id": NOBODY,
            "email": "",
            "iat": now,
            "exp": now + _CREDENTIAL_S,
            "keyed": self.required,
        }
        return self._signer.sign(_CREDENTIAL, claims)

    async def _owner_of_token(self, token: str) -> str:
        known_as = digest(token)
        owner, until = self._known.get(known_as, ("", 0.0))
        if until > time.monotonic():
            return owner
        fresh = until > (self._away_since or time.monotonic())  # when the database went away
        found = await self._asked(owner if fresh else None, self._store.owner_of, token) if token else None
        if found is None:
            self._known.pop(known_as, None)
            raise _unknown_key("the API key is unknown to this server; set TINKER_API_KEY to one that it has given out")
        self._known[known_as] = (found, time.monotonic() + _REMEMBERED_S)
        return found


class Authentication:
    """Middleware: finds the owner of each request before any route sees it."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self._app = app
        self._callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sets `request.state.owner`; raises HTTPException 401 where there is none."""
        if scope["type"] == "http":
            owner = await self._callers.owner(credential(HTTPConnection(scope)))
            scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)


def _unknown_key(detail: str) -> HTTPException:
    challenge = 'Bearer error="invalid_token", Basic realm="thumbs: any name, the key as password"'
    return HTTPException(401, detail, {"WWW-Authenticate": challenge})
