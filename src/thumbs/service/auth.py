"""Who is calling: tokens, the short-lived credentials exchanged for them, and signed links."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from thumbs.clients.store import Store
from thumbs.service.threads import Threads
from thumbs.storage import is_away

NOBODY = "local"
"""The owner of everything on a server without tokens."""
_JWT_S = 600
_REMEMBERED_S = 5.0

P = ParamSpec("P")
R = TypeVar("R")


class Signer:
    """Signs texts with HMAC-SHA256, and says until when they hold."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def link(self, subject: str, expires: int) -> str:
        """The signature of a link to `subject` that holds until `expires`, Unix seconds."""
        return self._mac(f"link\n{expires}\n{subject}".encode())

    def allows(self, subject: str, expires: str, signature: str) -> bool:
        """Whether the link is ours and still holds."""
        if not expires.isascii() or not expires.isdigit() or len(expires) > 15 or int(expires) < time.time():
            return False
        return hmac.compare_digest(self.link(subject, int(expires)), signature)

    def jwt(self, claims: Mapping[str, Any]) -> str:
        """A JSON Web Token (HS256) with the claims."""
        head = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = f"{head}.{_base64(json.dumps(dict(claims)).encode())}"
        return f"{body}.{self._mac(body.encode())}"

    def claims(self, jwt: str) -> dict[str, Any] | None:
        """The claims of a token that is ours and has not expired, else None."""
        body, _, signature = jwt.rpartition(".")
        if not hmac.compare_digest(self._mac(body.encode()).encode(), signature.encode("utf-8", "replace")):
            return None
        payload = body.rpartition(".")[2]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return claims if claims.get("exp", 0) > time.time() else None

    def _mac(self, text: bytes) -> str:
        return _base64(hmac.digest(self._key, text, hashlib.sha256))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


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
        self._known: dict[bytes, tuple[str, float]] = {}
        self._away_since: float | None = None

    async def owner(self, key: str) -> str:
        """The owner of `key`; raises HTTPException 401 where keys are required and this one is not good."""
        if not self.required and not await self._asked(False, self._store.has_tokens):
            return NOBODY
        self.required = True
        if key.startswith("eyJ"):
            claims = self._signer.claims(key)
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
        claims = {"sub": owner, "org_id": NOBODY, "email": "", "iat": now, "exp": now + _JWT_S, "keyed": self.required}
        return self._signer.jwt(claims)

    async def _owner_of_token(self, token: str) -> str:
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        owner, until = self._known.get(digest, ("", 0.0))
        if until > time.monotonic():
            return owner
        fresh = until > (self._away_since or time.monotonic())  # when the database went away
        found = await self._asked(owner if fresh else None, self._store.owner_of, token) if token else None
        if found is None:
            self._known.pop(digest, None)
            raise _unknown_key("the API key is unknown to this server; set TINKER_API_KEY to one that it has given out")
        self._known[digest] = (found, time.monotonic() + _REMEMBERED_S)
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
