"""Who works on a project, how well, and what they may."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from starlette.datastructures import FormData
from starlette.routing import Route

from thumbs.collect.errors import CollectError
from thumbs.collect.people import Member
from thumbs.collect.records import ROLES, Account, Role
from thumbs.collect.web.admin_site import Content, Visit, changes, number, reads, text
from thumbs.collect.web.site import public_url

_FIELDS = ("action", "account", "handle", "name", "role", "quota")


def routes() -> list[Route]:
    """The people of one project."""
    path = "/admin/p/{slug}/people"
    return [
        Route(path, reads("admin/people.html", "people", people), methods=["GET"]),
        Route(path, changes(change, "admin/people.html", "people", people, _FIELDS), methods=["POST"]),
    ]


def people(visit: Visit) -> Content:
    """Everybody who was added or judged something: those with most judgements first."""
    accounts = {account.id: account for account in visit.store.people.all()}
    members = {member.account_id: member for member in visit.store.people.members(visit.project.id)}
    shown = visit.numbers()
    known = {person.account: person for person in shown.numbers.people} if shown.numbers else {}
    seen = shown.numbers.tape.last_seen if shown.numbers else {}
    order = [*known, *(one for one in members if one not in known)]
    return {
        "rows": [(accounts[one], members.get(one), known.get(one), _at(seen.get(one))) for one in order],
        "others": [one for one in accounts.values() if one.id not in order and not one.disabled],
        "shown": shown,
        "roles": ROLES,
        "settings": visit.store.projects.settings(visit.project.id),
        "link": "",
        "invited": "",
    }


def change(visit: Visit, form: FormData) -> str | Content:
    """Adds somebody, or changes what they may."""
    by, action, store = visit.caller.account.id, text(form, "action"), visit.store
    here = f"{visit.home}/people"
    if action == "new":
        account = store.people.add(text(form, "handle"), text(form, "name"), _role(form), by=by)
        store.people.enrol(visit.project.id, account.id, by=by)
        return invited(visit, account)
    account = store.people.get(number(form, "account") or 0)
    if action == "enrol":
        store.people.enrol(visit.project.id, account.id, by=by)
    elif action == "save":
        _save(visit, form, account)
    elif action in ("pause", "resume"):
        _member(visit, account)
        store.people.set_member(visit.project.id, account.id, paused=action == "pause", by=by)
    elif action == "invite":
        return invited(visit, account)
    else:
        raise CollectError(f"people can be told new, enrol, save, pause, resume or invite, got {action!r}"[:200])
    return f"{here}?done=saved"


def invited(visit: Visit, account: Account) -> Content:
    """A new invitation, to be shown once."""
    secret = visit.store.people.invite(account.id, visit.caller.account.id)
    return {"link": f"{public_url(visit.request)}/invite/{secret}", "invited": account.handle}


def _save(visit: Visit, form: FormData, account: Account) -> None:
    """Quota and role, those of them that differ."""
    by, member, quota = visit.caller.account.id, _member(visit, account), number(form, "quota")
    if quota != member.quota:
        visit.store.people.set_member(visit.project.id, account.id, quota=quota, by=by)
    if text(form, "role") and text(form, "role") != account.role:
        visit.store.people.set_role(account.id, _role(form), by)


def _member(visit: Visit, account: Account) -> Member:
    """The person's part in the project, made where they judged before anybody added them."""
    return visit.store.people.member(visit.project.id, account.id) or visit.store.people.enrol(
        visit.project.id, account.id, by=visit.caller.account.id
    )


def _role(form: FormData) -> Role:
    return cast("Role", text(form, "role") or "annotator")


def _at(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
