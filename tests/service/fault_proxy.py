"""An HTTP proxy that fails where it is told to, and tells what went through it.

POST /faults {"endpoint": "asample", "status": 429, "times": 3} makes the next three requests of that endpoint fail and
forgets what was seen; with status 0 the server gets the request and answers, and the connection ends without the
answer. GET /faults returns the statuses seen so far by endpoint, 0 for an answer that was dropped.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

LOST = 0
_HOP = {"connection", "content-length", "host", "transfer-encoding"}
"""Headers of one connection, not of the message."""


class FaultProxy:
    """An ASGI application for uvicorn in front of the server at `target`."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._faults: dict[str, list[int]] = {}
        self._seen: dict[str, list[int]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or ends the connection."""
        request = Request(scope, receive)
        response = await (self._told(request) if request.url.path == "/faults" else self._pass_on(request))
        if response is None:
            transport: Any = send.__self__.transport  # type: ignore[attr-defined]  # ASGI has no word for hanging up
            transport.abort()
            await receive()  # returns when uvicorn knows too
        else:
            await response(scope, receive, send)

    async def _told(self, request: Request) -> Response:
        if request.method == "POST":
            fault = await request.json()
            self._faults.setdefault(fault["endpoint"], []).extend([fault["status"]] * fault["times"])
            self._seen.clear()
        return Response(json.dumps(self._seen))

    async def _pass_on(self, request: Request) -> Response | None:
        """The server's answer or a refusal; None if the answer is to be lost."""
        endpoint = request.url.path.rpartition("/")[2]
        faults = self._faults.get(endpoint)
        fault = faults.pop() if faults else None
        response = Response(status_code=fault) if fault else await self._answer_of_server(request)
        status = LOST if fault == LOST else response.status_code
        self._seen.setdefault(endpoint, []).append(status)
        return response if status else None

    async def _answer_of_server(self, request: Request) -> Response:
        headers = {name: value for name, value in request.headers.items() if name not in _HOP}
        url = f"{self._target}{request.url.path}?{request.url.query}"
        async with httpx.AsyncClient(timeout=None, trust_env=False, verify=False) as client:  # noqa: S113, S501
            call = client.build_request(request.method, url, headers=headers, content=await request.body())
            answer = await client.send(call, stream=True)
            body = b"".join([piece async for piece in answer.aiter_raw()])
            await answer.aclose()
        kept = {name: value for name, value in answer.headers.items() if name not in _HOP}
        return Response(body, answer.status_code, kept)
