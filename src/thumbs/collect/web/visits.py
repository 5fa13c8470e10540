"""One request of somebody who may make it, and the routes made of what answers it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from anyio.to_thread import run_sync
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.overview_numbers import Shown, Snapshots
from thumbs.collect.records import Project, Role
from thumbs.collect.store import CollectStore
from thumbs.collect.web.requests import ANNOTATE, Caller, answer, caller_of, json_body
from thumbs.collect.web.site import Site, site_of

_MOST_ID = 2**63 - 1


@dataclass(frozen=True)
class Visit:
    """A request, who makes it, and the JSON object that came with it."""

    request: Request
    caller: Caller
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        """The site that is visited."""
        return site_of(self.request)

    @property
    def store(self) -> CollectStore:
        """Its judgements and all the rest."""
        return self.site.store

    @property
    def account(self) -> int:
        """The id of the caller's account."""
        return self.caller.account.id

    @cached_property
    def project(self) -> Project:
        """The project in the address; raises NotFound."""
        return self.store.projects.find(self.path("slug"))

    @property
    def home(self) -> str:
        """The address of the project's pages for the team."""
        return f"/admin/p/{self.project.slug}"

    def path(self, name: str) -> str:
        """A part of the address."""
        return str(self.request.path_params[name])

    def path_number(self, name: str) -> int:
        """A part of the address as a whole number; 0, which nothing has, where it is too large."""
        return whole(self.path(name), 0)

    def asked(self, name: str) -> str:
        """A parameter of the address, "" where it is not there."""
        return self.request.query_params.get(name, "")

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        """A parameter of the address; None where it is none of those allowed."""
        return self.asked(name) if self.asked(name) in allowed else None

    def number(self, name: str, default: int = 0) -> int:
        """A parameter of the address as a whole number; `default` where it is none."""
        return whole(self.asked(name), default)

    def next(self, name: str, value: int | None) -> str:
        """The present address with that parameter set, "" where there is no value."""
        return "" if value is None else "?" + self.request.url.include_query_params(**{name: value}).query

    def text(self, name: str) -> str:
        """A member of the body; raises HTTPException 400 where it is no text."""
        value = self.body.get(name, "")
        if not isinstance(value, str):
            raise HTTPException(400, f"`{name}` must be text")
        return value

    @property
    def snapshots(self) -> Snapshots:
        """The statistics of all projects, kept as long as the server lives."""
        return self.request.app.state.snapshots

    def numbers(self) -> Shown:
        """The project's statistics, as new as they can be had without waiting."""
        return self.snapshots.of(self.project.id)


Work = Callable[[Visit], Mapping[str, Any] | Response]
"""Answers a visit, in a thread of its own: the store's calls wait for the database."""


def person(
    path: str, work: Work, method: str = "GET", *known: str, roles: Sequence[Role] = ANNOTATE, slow: bool = False
) -> Route:
    """What the page of a person who is logged in asks for; `known`: members that the JSON body may have.

    slow: it waits for a model, and so takes none of the few threads that wait for the database.
    """

    async def endpoint(request: Request) -> Response:
        caller = caller_of(request, *roles)
        body = {} if method == "GET" else await json_body(request, *known)
        limiter = request.app.state.writers if slow else None
        return _answered(await run_sync(work, Visit(request, caller, body), limiter=limiter))

    return Route(path, endpoint, methods=[method])


def script(path: str, work: Work, method: str = "GET", *known: str) -> Route:
    """What a script asks for with an API token that may read results."""

    async def endpoint(request: Request) -> Response:
        caller = token_of(request, "export")
        body = {} if method == "GET" else await json_body(request, *known)
        return _answered(await run_sync(work, Visit(request, caller, body)))

    return Route(path, endpoint, methods=[method])


def token_of(request: Request, scope: Literal["ingest", "export"]) -> Caller:
    """Whose API token came, where it may do that; raises HTTPException 401, 403. Scope admin may do all."""
    caller: Caller | None = request.state.caller
    if caller is None or caller.scope == "page":
        raise HTTPException(401, "send an API token: `Authorization: Bearer tc-…`", {"WWW-Authenticate": "Bearer"})
    if caller.scope not in (scope, "admin"):
        raise HTTPException(403, f"this needs a token with scope {scope}; yours has {caller.scope}")
    return caller


def whole(value: str, default: int) -> int:
    """`value` as a number that a database can hold; `default` where it is none."""
    if not value.isascii() or not value.isdigit() or len(value) > 19:
        return default
    return min(int(value), _MOST_ID)


def _answered(content: Mapping[str, Any] | Response) -> Response:
    return content if isinstance(content, Response) else answer(content)
