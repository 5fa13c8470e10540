"""What all pages of the team share: pages that read, and forms that change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anyio.to_thread import run_sync
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.records import Account
from thumbs.collect.web.render import page
from thumbs.collect.web.requests import CHANGE, READ, caller_of, form_body, redirect
from thumbs.collect.web.site import public_url
from thumbs.collect.web.visits import Visit, person, whole
from thumbs.errors import ThumbsError

Content = dict[str, Any]
Act = Callable[[Visit, FormData], str | Content]
"""Changes something as a form asks; the address to go to, or what the page shows once. Raises CollectError or
pydantic's ValidationError if it refuses: the page comes again then, with what was typed and the reason.
"""


def reads(path: str, template: str, tab: str, content: Callable[[Visit], Content]) -> Route:
    """A page that all of the team may read."""

    def work(visit: Visit) -> Response:
        return _page(visit, template, tab, {"given": {}, "fault": "", **content(visit)})

    return person(path, work, roles=READ)


def changes(
    path: str,
    template: str,
    tab: str,
    content: Callable[[Visit], Content],
    act: Act | Mapping[str, Act],
    fields: Sequence[str],
) -> Route:
    """A form of that page, which owners and admins may send, with no other fields than `fields`.

    Where there are several acts, the form's field `action` names the one.
    """

    def work(visit: Visit, form: FormData) -> Response:
        shown: Content = {
            "given": {name: value for name, value in form.items() if not isinstance(value, UploadFile)},
            "fault": "",
        }
        try:
            done = _chosen(act, form)(visit, form)
        except ThumbsError as error:
            return _page(visit, template, tab, {**content(visit), **shown, "fault": str(error)}, 400)
        except ValidationError as error:
            return _page(visit, template, tab, {**content(visit), **shown, "fault": _plain(error)}, 400)
        if isinstance(done, str):
            return redirect(visit.request, done)
        return _page(visit, template, tab, {**shown, **content(visit), **done})

    async def endpoint(request: Request) -> Response:
        caller = caller_of(request, *CHANGE)
        known = fields if callable(act) else ("action", *fields)
        form = await form_body(request, *known)
        return await run_sync(work, Visit(request, caller), form)

    return Route(path, endpoint, methods=["POST"])


def text(form: FormData, name: str) -> str:
    """A field of the form, without space around it; "" where it is not there."""
    value = form.get(name)
    return value.strip() if isinstance(value, str) else ""


def number(form: FormData, name: str) -> int | None:
    """A field as a whole number; None if it is empty or none."""
    value = text(form, name)
    return None if not value else whole(value, -1)


def invited(visit: Visit, account: Account) -> Content:
    """A new invitation, to be shown once."""
    secret = visit.store.people.invite(account.id, visit.account)
    return {"link": f"{public_url(visit.request)}/invite/{secret}", "invited": account.handle}


def log_lines(visit: Visit, project_id: int | None, most: int) -> Content:
    """A page of the audit log, of one project or of all; ?check=1 checks the chain of all."""
    lines = visit.store.audit.events(project_id, visit.number("before") or None, most)
    checked = visit.asked("check") == "1"
    return {
        "lines": lines,
        "handles": handles(visit),
        "checked": checked,
        "broken": visit.store.audit.broken() if checked else None,
        "next": visit.next("before", lines[-1].id if len(lines) == most else None),
    }


def handles(visit: Visit) -> dict[int, str]:
    """What people are called, by account."""
    return {account.id: account.handle for account in visit.store.people.all()}


def _chosen(act: Act | Mapping[str, Act], form: FormData) -> Act:
    if not isinstance(act, Mapping):
        return act
    action = text(form, "action")
    if action not in act:
        raise CollectError(f"there is no such change: {action!r}; there are {', '.join(act)}"[:200])
    return act[action]


def _page(visit: Visit, template: str, tab: str, content: Mapping[str, Any], status: int = 200) -> Response:
    shared = {
        "project": visit.project if "slug" in visit.request.path_params else None,
        "tab": tab,
        "may_change": visit.caller.account.role in CHANGE,
        "done": visit.asked("done"),
        "local": visit.site.local,
    }
    return page(visit.request, template, status, **shared, **content)


def _plain(error: ValidationError) -> str:
    """What pydantic found, a sentence each."""
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors())
