"""The annotation site as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from anyio import CapacityLimiter
from anyio.to_thread import current_default_thread_limiter
from sqlalchemy.exc import DataError, OperationalError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from thumbs.collect.errors import Closed, Conflict, NotFound
from thumbs.collect.overview_numbers import Snapshots, make_numbers
from thumbs.collect.question import AnswerError
from thumbs.collect.store import why_no_answer
from thumbs.collect.web import admin, annotate, api, join, login, results
from thumbs.collect.web.admin_export import Jobs
from thumbs.collect.web.limits import Limits
from thumbs.collect.web.render import language_of, page
from thumbs.collect.web.requests import problem, redirect
from thumbs.collect.web.sessions import Sessions
from thumbs.collect.web.site import Site, site_of
from thumbs.collect.web.words import words
from thumbs.errors import ThumbsError
from thumbs.web.guards import BodyLimit, SameOrigin
from thumbs.web.proxies import Forwarded, route_path

log = logging.getLogger(__name__)

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action {forms}; base-uri 'none'; frame-ancestors {frames}; "
    "require-trusted-types-for 'script'; trusted-types collect"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers then say `Origin: null` of our own forms, and SameOrigin would refuse them.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
_STATIC_S = 86_400
"""Their addresses change with what is in them."""
_BODY_BYTES, _BULK_BYTES = 1 << 20, 64 << 20
_SWEEP_S = 30.0
_THREADS, _WRITERS = 8, 64


def create_app(site: Site) -> Starlette:
    """The application. The store is the caller's to close, after the application has ended."""
    known = (HTTPException, ThumbsError, OperationalError, DataError, OverflowError, UnicodeEncodeError)
    handlers = dict.fromkeys(known, _explain)
    app = Starlette(
        routes=_routes(),
        middleware=[
            Middleware(Forwarded, prefix=site.prefix, proxies=site.proxies),
            Middleware(Headers),
            Middleware(ExceptionMiddleware, handlers=handlers),  # for what the following refuse
            Middleware(TrustedHostMiddleware, allowed_hosts=list(site.hosts), www_redirect=False),
            Middleware(SameOrigin, refusal=_refused_path, names=site.names, secure=site.secure),
            Middleware(Sessions),
            Middleware(BodyLimit, most=_most_bytes),
        ],
        exception_handlers={**handlers, Exception: _fail},
        lifespan=_life,
    )
    app.router.redirect_slashes = False  # to an address with whatever Host came
    app.state.site = site
    app.state.limits = Limits()
    app.state.writers = CapacityLimiter(_WRITERS)
    app.state.snapshots = Snapshots(site.store.db, lambda project_id: make_numbers(site.store, project_id))
    app.state.exports = Jobs()
    return app


def _routes() -> list[BaseRoute]:
    parts = (annotate, results, admin, login, join, api)
    files = StaticFiles(directory=Path(__file__).with_name("static"))
    return [*(route for part in parts for route in part.routes()), Mount("/static", files, name="static")]


def _most_bytes(path: str) -> int:
    return _BULK_BYTES if path.endswith(("/items", "/import")) else _BODY_BYTES


@contextlib.asynccontextmanager
async def _life(app: Starlette) -> AsyncIterator[None]:
    """Frees the tasks of people who left, while the server lives."""
    # The database takes them one after the other: more would only fight over the interpreter. What waits for a model
    # has threads of its own: run_sync with app.state.writers.
    current_default_thread_limiter().total_tokens = _THREADS
    sweeper = asyncio.create_task(_sweep(app.state.site))
    try:
        yield
    finally:
        sweeper.cancel()


async def _sweep(site: Site) -> None:
    while True:
        try:
            await run_in_threadpool(site.store.work.expire)
        except OperationalError as error:
            log.warning("the database does not answer: %s", error)
        await asyncio.sleep(_SWEEP_S)


class Headers:
    """Middleware: starts the state of a request, and gives every response its number and what browsers must obey."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds to the headers; a route's own value stays."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        request_id, places = secrets.token_hex(8), {"root": scope.get("root_path", ""), "path": route_path(scope)}
        state.update(caller=None, secret="", csrf="", embedded=False, request_id=request_id, **places)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _headers(HTTPConnection(scope)).items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, sent)


def _headers(connection: HTTPConnection) -> dict[str, str]:
    state = connection.state
    static = state.path.startswith("/static/")
    hit = join.hit_of(connection) if state.embedded else None
    forms = f"'self' {hit[0]}" if hit else "'self'"
    frames = "https://*.mturk.com" if state.embedded else "'none'"
    return {
        **_HEADERS,
        "Content-Security-Policy": _POLICY.format(forms=forms, frames=frames),
        "Cache-Control": f"public, max-age={_STATIC_S}" if static else "no-store",
        "X-Request-Id": state.request_id,
    }


async def _explain(request: Request, error: Exception) -> Response:
    """A refusal in a sentence: problem+json for programs, a page for people."""
    status, detail, headers, more = _told(error)
    if status == 503:
        log.error("the database does not answer: %s", error)
    path = request.state.path
    if status == 401 and not _is_api(path) and not site_of(request).local and request.method == "GET":
        return redirect(request, "/login?next=" + quote(path, safe="/"))
    return _refusal(request, status, detail, headers, **more)


def _told(error: Exception) -> tuple[int, str, Mapping[str, str], dict[str, object]]:
    """Status, sentence, headers and further members that tell of `error`."""
    match error:
        case HTTPException():
            return error.status_code, error.detail, error.headers or {}, {}
        case AnswerError():
            return 422, str(error), {}, {"faults": [list(fault) for fault in error.faults]}
        case NotFound():
            return 404, str(error), {}, {}
        case Closed():
            return 403, str(error), {}, {}
        case Conflict():
            return 409, str(error), {}, {"revision": error.revision}
        case ThumbsError():
            return 400, str(error), {}, {}
        case OperationalError():
            return 503, why_no_answer(error), {"Retry-After": "5"}, {}
        case _:  # the database's driver refuses a number or a character
            return 400, "the request holds a value that cannot be kept", {}, {}


async def _fail(request: Request, error: Exception) -> Response:
    """A bug of ours; the server's log has its trace. Other middleware does not see this response."""
    detail = f"the server failed ({type(error).__name__}); its log tells more under {request.state.request_id}"
    log.error("request %s failed: %s %s", request.state.request_id, request.method, request.url.path)
    if _is_api(request.state.path):
        return problem(500, "Internal Server Error", detail, headers=_headers(request))
    return PlainTextResponse(detail, 500, _headers(request))


def _refusal(
    request: Request, status: int, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    phrase = HTTPStatus(status).phrase
    if _is_api(request.state.path):
        return problem(status, phrase, detail, headers=headers, **more)
    title = words(language_of(request)).get(f"status.{status}", phrase)
    if status == 401 and site_of(request).local:
        detail = words(language_of(request))["login.local"]
    shown = page(request, "error.html", status, title=title, detail=detail)
    shown.headers.update(headers or {})
    return shown


def _refused_path(_path: str, status: int, detail: str) -> ASGIApp:
    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await _refusal(Request(scope), status, detail)(scope, receive, send)

    return respond


def _is_api(path: str) -> bool:
    """Whether programs ask there, who want no pages."""
    return path.startswith("/api/") or path == "/healthz"
