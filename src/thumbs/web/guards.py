"""Middleware that refuses what should not reach a route."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[", "[::1]")
"""Host headers that only this machine can mean; Starlette before 1.0 cuts [::1] at its first colon."""


class SameOrigin:
    """Middleware: refuses what a page of another site sends from somebody's browser.

    `refusal` makes the answer from the path, the status and a sentence.
    """

    def __init__(self, app: ASGIApp, refusal: Callable[[str, int, str], ASGIApp]) -> None:
        self._app = app
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests without an Origin, as programs send them, and those of this server's own pages."""
        if scope["type"] == "http":
            headers = HTTPConnection(scope).headers
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refused = self._refusal(scope["path"], 403, "requests from pages of other sites are refused")
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


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
