"""What belongs to no single project: accounts, API tokens, the log of it all."""

from __future__ import annotations

from typing import cast

from starlette.datastructures import FormData
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.people import SCOPE_ROLES, TokenScope
from thumbs.collect.records import ROLES, Role
from thumbs.collect.web.admin_people import invited
from thumbs.collect.web.admin_site import Content, Visit, changes, number, reads, text

_LINES = 50
_FIELDS = ("action", "account", "handle", "name", "role", "scope", "note", "token")


def routes() -> list[Route]:
    """One page."""
    return [
        Route("/admin/team", reads("admin/team.html", "team", team), methods=["GET"]),
        Route("/admin/team", changes(change, "admin/team.html", "team", team, _FIELDS), methods=["POST"]),
    ]


def team(visit: Visit) -> Content:
    """All accounts, tokens, and the newest lines of the log of all projects."""
    accounts = visit.store.people.all()
    before = visit.number("before") or None
    lines = visit.store.audit.events(None, before, _LINES)
    checked = visit.asked("check") == "1"
    return {
        "accounts": accounts,
        "handles": {account.id: account.handle for account in accounts},
        "tokens": visit.store.people.tokens(),
        "scopes": SCOPE_ROLES,
        "roles": ROLES,
        "lines": lines,
        "next": visit.next("before", lines[-1].id if len(lines) == _LINES else None),
        "checked": checked,
        "broken": visit.store.audit.broken() if checked else None,
        "link": "",
        "invited": "",
        "secret": "",
    }


def change(visit: Visit, form: FormData) -> str | Content:
    """One change of one account or token."""
    store, by, action = visit.store.people, visit.caller.account.id, text(form, "action")
    account = number(form, "account") or 0
    if action == "new":
        role = cast("Role", text(form, "role") or "annotator")
        return invited(visit, store.add(text(form, "handle"), text(form, "name"), role, by=by))
    if action == "invite":
        return invited(visit, store.get(account))
    if action == "token":
        scope = cast("TokenScope", text(form, "scope"))
        return {"secret": store.add_token(by, scope, text(form, "note"), by)}
    if action == "role":
        store.set_role(account, cast("Role", text(form, "role")), by)
    elif action == "disable":
        store.disable(account, by)
    elif action == "enable":
        store.enable(account, by)
    elif action == "revoke":
        store.revoke(number(form, "token") or 0, by)
    else:
        raise CollectError(f"there is no such change: {action!r}"[:200])
    return "/admin/team?done=saved"
