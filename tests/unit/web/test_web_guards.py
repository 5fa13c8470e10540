"""The guards before every page: bodies on their bound, names, and prefixes, each without the site behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from thumbs.web.guards import BodyLimit, KnownHost, SameOrigin
from thumbs.web.proxies import Forwarded


async def echo(request: Request) -> JSONResponse:
    return JSONResponse(
        {"length": len(await request.body()), "path": request.url.path, "root": request.scope.get("root_path", "")}
    )


def site() -> Starlette:
    return Starlette(routes=[Route("/{rest:path}", echo, methods=["GET", "POST"])])


def refusal(path: str, status: int, told: str) -> ASGIApp:
    return PlainTextResponse(f"{path}: {told}", status)


def visit(app: ASGIApp, url: str = "http://localhost") -> TestClient:
    return TestClient(app, base_url=url, follow_redirects=False)


@pytest.mark.parametrize("pieces", [(5,), (4, 1), (0, 5, 0), (1,) * 5])
@pytest.mark.parametrize("more", [0, 1])
def test_a_body_is_as_long_as_its_path_takes_and_no_byte_longer(pieces: tuple[int, ...], more: int) -> None:
    def body() -> Iterator[bytes]:
        yield from (b"x" * length for length in (*pieces, more))

    app = Starlette(routes=site().routes, middleware=[Middleware(BodyLimit, most=lambda path: 5 + (path == "/long"))])
    visitor = visit(app)
    assert visitor.post("/long", content=body()).json()["length"] == 5 + more
    if more:
        refused = visitor.post("/short", content=body())
        assert refused.status_code == 413
        assert "the body is longer than 5 bytes" in refused.text
    else:
        assert visitor.post("/short", content=body()).json()["length"] == 5


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("box", True),
        ("BOX", True),
        ("box:80", True),
        ("[::1]", True),
        ("[::1]:8000", True),
        ("", False),
        ("boxes", False),
        ("box.evil.test", False),
        ("evil.test:80", False),
        ("[::2]:80", False),
    ],
)
def test_a_server_answers_to_its_own_names(host: str, known: bool) -> None:
    answer = visit(KnownHost(site(), ["Box", "[::1]"], refusal)).get("/page", headers={"Host": host})
    assert answer.status_code == (200 if known else 400)
    assert ("/page: this server does not go by the name" in answer.text) is not known
    assert visit(KnownHost(site(), ["*"], refusal)).get("/page", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        (None, (), True),
        ("http://localhost", (), True),
        ("http://localhost:81", (), False),
        ("https://evil.test", (), False),
        ("null", (), False),
        ("https://friend.test", ("https://friend.test",), True),
        ("https://friend.test.evil.test", ("https://friend.test",), False),
        ("https://evil.test", ("*",), True),
    ],
)
def test_pages_of_other_sites_send_nothing(origin: str | None, origins: tuple[str, ...], allowed: bool) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = visit(SameOrigin(site(), refusal, origins)).post("/page", headers=headers)
    assert answer.status_code == (200 if allowed else 403)
    assert ("/page: requests from pages of other sites are refused" in answer.text) is not allowed


@pytest.mark.parametrize(
    ("prefix", "asked", "path", "root"),
    [
        ("", "/a", "/a", ""),
        ("/p", "/p/a", "/p/a", "/p"),
        ("/p", "/a", "/p/a", "/p"),
        ("/p", "/pa", "/p/pa", "/p"),
        ("/p", "/p", "/p", "/p"),
    ],
)
def test_links_are_made_with_the_prefix(prefix: str, asked: str, path: str, root: str) -> None:
    seen = {}

    async def tell(scope, receive, send):
        seen.update(path=scope["path"], root=scope.get("root_path", ""))
        await PlainTextResponse("")(scope, receive, send)

    visit(Forwarded(tell, prefix)).get(asked)
    assert seen == {"path": path, "root": root}
