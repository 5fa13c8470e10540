"""Who works on a project, how well, and what they may; and what belongs to no single project: accounts, API tokens,
the log of it all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import cast

from starlette.datastructures import FormData
from starlette.routing import Route

from thumbs.collect.people import SCOPE_ROLES, Member
from thumbs.collect.records import ROLES, Account, Role, TokenScope
from thumbs.collect.web.admin_site import Content, changes, invited, log_lines, number, reads, text
from thumbs.collect.web.visits import Visit

_LINES = 50


def routes() -> list[Route]:
    """The people of one project, and the team."""
    people = ("/admin/p/{slug}/people", "admin/people.html", "people", project_people)
    everybody = ("/admin/team", "admin/team.html", "team", team)
    return [
        reads(*people),
        changes(*people, _PEOPLE, ("account", "handle", "name", "role", "quota")),
        reads(*everybody),
        changes(*everybody, _TEAM, ("account", "handle", "name", "role", "scope", "note", "token")),
    ]


def project_people(visit: Visit) -> Content:
    """Everybody who was added or judged something: those with most judgements first."""
    accounts = {account.id: account for account in visit.store.people.all()}
    members = {member.account_id: member for member in visit.store.people.members(visit.project.id)}
    shown = visit.numbers()
    known = {person.account: person for person in shown.numbers.people} if shown.numbers else {}
    last_seen = shown.numbers.tape.last_seen if shown.numbers else {}
    seen = {account: datetime.fromtimestamp(at, UTC) for account, at in last_seen.items()}
    order = [*known, *(one for one in members if one not in known)]
    return {
        "rows": [(accounts[one], members.get(one), known.get(one), seen.get(one)) for one in order],
        "others": [one for one in accounts.values() if one.id not in order and not one.disabled],
        "shown": shown,
        "roles": ROLES,
        "settings": visit.store.projects.settings(visit.project.id),
        "link": "",
        "invited": "",
    }


def team(visit: Visit) -> Content:
    """All accounts, tokens, and the newest lines of the log of all projects."""
    return {
        **log_lines(visit, None, _LINES),
        "accounts": visit.store.people.all(),
        "tokens": visit.store.people.tokens(),
        "scopes": SCOPE_ROLES,
        "roles": ROLES,
        "link": "",
        "invited": "",
        "secret": "",
    }


def _new(visit: Visit, form: FormData) -> Content:
    """A new account; on a project's page, for that project."""
    role = cast("Role", text(form, "role") or "annotator")
    account = visit.store.people.add(text(form, "handle"), text(form, "name"), role, by=visit.account)
    if "slug" in visit.request.path_params:
        _member(visit, account)
    return invited(visit, account)


def _invite(visit: Visit, form: FormData) -> Content:
    return invited(visit, _account(visit, form))


def _save(visit: Visit, form: FormData) -> str:
    """Quota and role, those of them that differ."""
    account, quota, role = _account(visit, form), number(form, "quota"), text(form, "role")
    if quota != _member(visit, account).quota:
        visit.store.people.set_member(visit.project.id, account.id, quota=quota, by=visit.account)
    if role and role != account.role:
        visit.store.people.set_role(account.id, cast("Role", role), visit.account)
    return f"{visit.home}/people?done=saved"


def _enrol(visit: Visit, form: FormData) -> str:
    _member(visit, _account(visit, form))
    return f"{visit.home}/people?done=saved"


def _pause(visit: Visit, form: FormData) -> str:
    account = _account(visit, form)
    _member(visit, account)
    paused = text(form, "action") == "pause"
    visit.store.people.set_member(visit.project.id, account.id, paused=paused, by=visit.account)
    return f"{visit.home}/people?done=saved"


def _account(visit: Visit, form: FormData) -> Account:
    return visit.store.people.get(number(form, "account") or 0)


def _member(visit: Visit, account: Account) -> Member:
    """The person's part in the project, made where they have none."""
    return visit.store.people.enrol(visit.project.id, account.id, by=visit.account)


def _token(visit: Visit, form: FormData) -> Content:
    scope = cast("TokenScope", text(form, "scope"))
    return {"secret": visit.store.people.add_token(visit.account, scope, text(form, "note"), visit.account)}


def _team_change(visit: Visit, form: FormData) -> str:
    """A change of one account or token, of which there is nothing to show."""
    people, account = visit.store.people, number(form, "account") or 0
    match text(form, "action"):
        case "role":
            people.set_role(account, cast("Role", text(form, "role")), visit.account)
        case "disable":
            people.disable(account, visit.account)
        case "enable":
            people.enable(account, visit.account)
        case _:
            people.revoke(number(form, "token") or 0, visit.account)
    return "/admin/team?done=saved"


_PEOPLE = {"new": _new, "enrol": _enrol, "save": _save, "pause": _pause, "resume": _pause, "invite": _invite}
_TEAM = {"new": _new, "invite": _invite, "token": _token}
_TEAM |= dict.fromkeys(("role", "disable", "enable", "revoke"), _team_change)
