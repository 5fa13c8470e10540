"""Middleware that refuses what should not reach a route."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thumbs.web.proxies import is_own_page

LOOPBACK = ("localhost", "127.0.0.1", "[", "[::1]")
"""Host headers that only this machine can mean; Starlette before 1.0 cuts [::1] at its first colon."""


class SameOrigin:
    """Middleware: refuses what a page of another site sends from somebody's browser.

    `refusal` makes the answer from the path, the status and a sentence. `origins`: other sites whose pages may use the
    server; "*" stands for all. names, secure: as in `is_own_page`.
    """

    def __init__(
        self,
        app: ASGIApp,
        refusal: Callable[[str, int, str], ASGIApp],
        origins: Collection[str] = (),
        *,
        names: Collection[str] = (),
        secure: bool | None = None,
    ) -> None:
        self._app = app
        self._refusal = refusal
        self._origins = frozenset(origins)
        self._names, self._secure = names, secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests without an Origin, as programs send them, and those of this server's own pages."""
        if scope["type"] == "http":
            headers = HTTPConnection(scope).headers
            origin = headers.get("origin")
            if origin is not None and not self._is_ours(origin, headers, scope["scheme"]):
                refused = self._refusal(scope["path"], 403, "requests from pages of other sites are refused")
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, origin: str, headers: Headers, scheme: str) -> bool:
        own = is_own_page(headers, scheme, self._names, secure=self._secure)
        return own or bool(self._origins & {origin, "*"})


class KnownHost:
    """Middleware: refuses what was sent to a name that the server does not go by.

    On loopback that keeps out pages whose own name was made to lead here. `hosts`: names without a port; "*" stands for
    all. `refusal` as in SameOrigin.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], refusal: Callable[[str, int, str], ASGIApp]) -> None:
        self._app = app
        self._hosts = frozenset(host.lower() for host in hosts)
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests whose Host header is known."""
        if scope["type"] == "http" and "*" not in self._hosts:
            host = _without_port(HTTPConnection(scope).headers.get("host", "")).lower()
            if host not in self._hosts:
                told = (
                    f"this server does not go by the name {host[:200]!r}; start it with `--name` if that is one of its"
                )
                await self._refusal(scope["path"], 400, told)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _without_port(host: str) -> str:
    """The name in a Host header; an IPv6 address keeps its brackets."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


class BodyLimit:
    """Middleware: ends a request whose body is too long, whatever its headers say.

    `most` tells how many bytes a path takes.
    """

    def __init__(self, app: ASGIApp, most: Callable[[str], int]) -> None:
        self._app = app
        self._most = most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what arrives."""
        most = self._most(scope.get("path", ""))
        left = most

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, f"the body is longer than {most} bytes; send less at a time")
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)
