"""What all pages of the team share: who looks at which project, pages that read, forms that change."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from thumbs.collect.overview_cache import Shown, Snapshots
from thumbs.collect.overview_numbers import Numbers, make_numbers
from thumbs.collect.records import Project
from thumbs.collect.store import CollectStore
from thumbs.collect.web.render import page
from thumbs.collect.web.requests import CHANGE, READ, Caller, caller_of, form_body, redirect, site_of, threaded
from thumbs.errors import ThumbsError

SNAPSHOTS = "snapshots"
"""Where the application's state has them."""
_MOST_ID = 2**63 - 1
_LOCK = threading.Lock()

Content = dict[str, Any]


@dataclass(frozen=True)
class Visit:
    """One request for a page of the team; `project` is the one in its address, if there is one."""

    request: Request
    caller: Caller
    store: CollectStore
    found: Project | None

    @property
    def project(self) -> Project:
        """The project in the address."""
        return cast("Project", self.found)

    @property
    def home(self) -> str:
        """The address of the project's pages."""
        return f"/admin/p/{self.project.slug}"

    def asked(self, name: str) -> str:
        """A parameter of the address, "" where it is not there."""
        return self.request.query_params.get(name, "")

    def number(self, name: str, default: int = 0) -> int:
        """A parameter of the address as a whole number; `default` where it is none."""
        return _whole(self.asked(name), default)

    def path_number(self, name: str) -> int:
        """A part of the address as a whole number; 0, which nothing has, where it is too large."""
        return _whole(str(self.request.path_params[name]), 0)

    def next(self, name: str, value: int | None) -> str:
        """The present address with that parameter set, "" where there is no value."""
        return "" if value is None else "?" + self.request.url.include_query_params(**{name: value}).query

    def numbers(self) -> Shown[Numbers]:
        """The project's statistics, as new as they can be had without waiting."""
        return snapshots_of(self.request).of(self.project.id)


def snapshots_of(request: Request) -> Snapshots[Numbers]:
    """The statistics of all projects, kept as long as the server lives."""
    state, store = request.app.state, site_of(request).store
    with _LOCK:
        if not hasattr(state, SNAPSHOTS):
            setattr(state, SNAPSHOTS, Snapshots(store.db, lambda project_id: make_numbers(store, project_id)))
        return getattr(state, SNAPSHOTS)


def reads(template: str, tab: str, content: Callable[[Visit], Content]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a page that all of the team may read."""

    async def endpoint(request: Request) -> Response:
        caller = caller_of(request, *READ)
        return await threaded(_read, request, caller, template, tab, content)

    return endpoint


def changes(
    act: Callable[[Visit, FormData], str | Content],
    template: str,
    tab: str,
    content: Callable[[Visit], Content],
    fields: Sequence[str],
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a form that owners and admins may send, with no other fields than `fields`.

    `act` returns the address to go to, or what the page shows once. The page comes again, with what was typed and the
    reason, where `act` refuses it.
    """

    async def endpoint(request: Request) -> Response:
        caller = caller_of(request, *CHANGE)
        form = await form_body(request, *fields)
        return await threaded(_change, request, caller, form, act, template, tab, content)

    return endpoint


def text(form: FormData, name: str) -> str:
    """A field of the form, without space around it; "" where it is not there."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def number(form: FormData, name: str) -> int | None:
    """A field as a whole number; None where it is empty or none."""
    value = text(form, name)
    return None if not value else _whole(value, -1)


def _read(request: Request, caller: Caller, template: str, tab: str, content: Callable[[Visit], Content]) -> Response:
    visit = _visit(request, caller)
    return _page(visit, template, tab, {"given": {}, "fault": "", **content(visit)})


def _change(
    request: Request,
    caller: Caller,
    form: FormData,
    act: Callable[[Visit, FormData], str | Content],
    template: str,
    tab: str,
    content: Callable[[Visit], Content],
) -> Response:
    visit = _visit(request, caller)
    given = {name: value for name, value in form.items() if not isinstance(value, UploadFile)}
    try:
        done = act(visit, form)
    except ThumbsError as error:
        return _page(visit, template, tab, {**content(visit), "given": given, "fault": str(error)}, 400)
    except ValidationError as error:
        return _page(visit, template, tab, {**content(visit), "given": given, "fault": _plain(error)}, 400)
    if isinstance(done, str):
        return redirect(visit.request, done)
    return _page(visit, template, tab, {"given": given, "fault": "", **content(visit), **done})


def _visit(request: Request, caller: Caller) -> Visit:
    store, slug = site_of(request).store, request.path_params.get("slug")
    return Visit(request, caller, store, None if slug is None else store.projects.find(slug))


def _page(visit: Visit, template: str, tab: str, content: Mapping[str, Any], status: int = 200) -> Response:
    shared = {
        "project": visit.found,
        "tab": tab,
        "may_change": visit.caller.account.role in CHANGE,
        "done": visit.asked("done"),
        "local": site_of(visit.request).local,
    }
    return page(visit.request, template, status, **shared, **content)


def _plain(error: ValidationError) -> str:
    """What pydantic found, a sentence each."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors())


def _whole(value: str, default: int) -> int:
    """`value` as a number that a database can hold."""
    if not value.isascii() or not value.isdigit() or len(value) > 19:
        return default
    return min(int(value), _MOST_ID)
