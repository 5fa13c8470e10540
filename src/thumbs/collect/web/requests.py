"""Who asks, what comes in, and what goes out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Literal

from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse

from thumbs.collect.items import can_be_kept
from thumbs.collect.records import Account, Role
from thumbs.collect.web.site import root_of

ANNOTATE: tuple[Role, ...] = ("owner", "admin", "reviewer", "annotator")
READ: tuple[Role, ...] = ("owner", "admin", "reviewer", "viewer")
CHANGE: tuple[Role, ...] = ("owner", "admin")


@dataclass(frozen=True)
class Caller:
    """Whose request this is. csrf: what their forms must carry; scope: "page" for a session, else the token's."""

    account: Account
    csrf: str
    scope: Literal["page", "ingest", "export", "admin"]


def caller_of(request: Request, *roles: Role) -> Caller:
    """Who is logged in, as one of `roles`, all where none are named.

    Raises HTTPException 401 where nobody is (the pages then show the way in), 403 where their role does not allow it.
    API tokens open the routes made for them only.
    """
    caller: Caller | None = request.state.caller
    if caller is None:
        raise HTTPException(401, "log in first")
    if caller.scope != "page":
        raise HTTPException(403, "this needs a person who is logged in, not an API token")
    if roles and caller.account.role not in roles:
        raise HTTPException(403, f"this needs the role {' or '.join(roles)}; yours is {caller.account.role}")
    return caller


def check_kind(request: Request, *kinds: str) -> None:
    """Raises HTTPException 415 for a body of another content type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in kinds:
        raise HTTPException(415, f"the content type must be {' or '.join(kinds)}, got {kind or 'none'}"[:200])


async def json_body(request: Request, *known: str) -> dict[str, Any]:
    """The JSON object that came, without what is null; raises HTTPException 415, 400 for a key that is not `known`
    among others, and 403 without the session's X-CSRF-Token.
    """
    check_kind(request, "application/json")
    caller: Caller | None = request.state.caller
    if caller is None or caller.scope == "page":
        _check_csrf(request, request.headers.get("x-csrf-token", ""))
    try:
        value = json.loads(await request.body() or b"{}", parse_constant=_refuse)
    except (ValueError, RecursionError):  # a ValueError too: bytes that are not UTF-8, numbers of thousands of digits
        raise HTTPException(400, "the body is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "the body must be a JSON object")
    _check_known(value, known)
    return {key: one for key, one in value.items() if one is not None}


async def form_body(request: Request, *known: str) -> FormData:
    """The form that came; raises HTTPException 415, 400 for a field that is not `known` among others, and 403 without
    the hidden field `csrf`.
    """
    check_kind(request, "application/x-www-form-urlencoded", "multipart/form-data")
    form = await request.form(max_files=1, max_fields=200, max_part_size=1 << 20)
    given = form.get("csrf")
    _check_csrf(request, given if isinstance(given, str) else "")
    for name, value in form.multi_items():
        if isinstance(value, str) and not can_be_kept(value):
            raise HTTPException(400, f"the field {name!r} holds a character that cannot be kept"[:200])
    _check_known(form.keys(), ("csrf", *known))
    return form


def answer(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """`value` as JSON."""
    return JSONResponse(dict(value), status, dict(headers or {}))


def redirect(request: Request, path: str) -> RedirectResponse:
    """Sends the browser to a path of this site."""
    return RedirectResponse(root_of(request) + path, 303)


def problem(
    status: int, title: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
) -> JSONResponse:
    """A refusal as application/problem+json (RFC 9457)."""
    content = {"status": status, "title": title, "detail": detail, **more}
    return JSONResponse(content, status, dict(headers or {}), media_type="application/problem+json")


def address_of(request: Request) -> str:
    """Where the request came from: an address, or as much of an IPv6 address as one subscriber has."""
    host = request.client.host if request.client else ""
    return ":".join(host.split(":")[:4]) if ":" in host else host


def _check_known(given: Iterable[str], known: Sequence[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        allowed = f"allowed are {', '.join(known)}" if known else "nothing is allowed there"
        raise HTTPException(400, f"unknown: {', '.join(unknown)[:200]}; {allowed}")


def _check_csrf(request: Request, given: str) -> None:
    expected: str = request.state.csrf
    if not expected or not compare_digest(expected.encode(), given.encode("utf-8", "replace")):
        raise HTTPException(403, "the page is out of date or the request came from elsewhere; reload the page")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
