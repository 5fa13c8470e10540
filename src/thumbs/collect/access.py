"""Whether a project is open to a person: the one question behind every door to tasks, guidelines and replies."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, exists, func, or_, select

from thumbs.collect.errors import Closed, NotFound
from thumbs.collect.projects import read_settings
from thumbs.collect.records import NoTask
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.tables import ACCOUNTS, ASSIGNMENTS, IDENTITIES, ITEMS, MEMBERS, PROJECTS

WHY: dict[str, str] = {
    "paused": "this project, or your part in it, is paused",
    "closed": "this project is closed",
    "quota": "you have given all the judgements that are wanted of you",
    "not_qualified": "this project is open to people who passed its test",
    "not_invited": "this project is open to people who were added to it",
}
"""Why nothing is given out, in a sentence."""


@dataclass(frozen=True)
class Access:
    """A person's way into a project, and its rules. closed: why they get neither tasks nor guidelines nor replies of
    the live policy; None while the project is open to them.
    """

    project_id: int
    account_id: int
    settings: ProjectSettings
    is_member: bool
    qualified: bool | None
    closed: NoTask | None

    def check(self) -> None:
        """Raises Closed unless the project is open to the person."""
        if self.closed is not None:
            raise Closed(WHY[self.closed])

    def check_own(self) -> None:
        """Raises Closed unless the person may look at what they judged before: a used-up quota leaves that open."""
        if self.closed != "quota":
            self.check()


def access_of(db: Connection, project_id: int, account_id: int) -> Access:
    """Raises NotFound if there is no such project.

    `invited_only` asks for membership of everybody but owners and admins, who could add themselves. Hired workers come
    by the link of one project, so they need membership everywhere.
    """
    member = and_(MEMBERS.c.project_id == PROJECTS.c.id, MEMBERS.c.account_id == account_id)
    hired = exists().where(IDENTITIES.c.account_id == account_id)
    role = select(ACCOUNTS.c.role).where(ACCOUNTS.c.id == account_id).scalar_subquery()
    query = (
        select(
            *PROJECTS.c["state", "settings"],
            *MEMBERS.c["account_id", "quota", "paused", "qualified"],
            hired.label("hired"),
            role.label("role"),
        )
        .join(MEMBERS, member, isouter=True)
        .where(PROJECTS.c.id == project_id)
    )
    row = db.execute(query).first()
    if row is None:
        raise NotFound(f"there is no project {project_id}")
    settings, is_member = read_settings(row), row.account_id is not None
    quota = settings.quota if row.quota is None else row.quota
    closed: NoTask | None = None
    if not is_member and (row.hired or (settings.invited_only and row.role not in ("owner", "admin"))):
        closed = "not_invited"
    elif row.state != "open":
        closed = row.state
    elif row.paused:
        closed = "paused"
    elif settings.qualify_items and row.qualified is False:
        closed = "not_qualified"
    elif quota is not None and given(db, project_id, account_id, "submitted", role="work") >= quota:
        closed = "quota"
    return Access(project_id, account_id, settings, is_member, row.qualified, closed)


def given(db: Connection, project_id: int, account_id: int, *states: str, role: str | None = None) -> int:
    """How many of a person's assignments are in one of those states; `role`: of items of that role alone."""
    query = (
        select(func.count())
        .select_from(ASSIGNMENTS)
        .where(
            ASSIGNMENTS.c.project_id == project_id,
            ASSIGNMENTS.c.account_id == account_id,
            or_(*(ASSIGNMENTS.c.state == state for state in states)),
        )
    )
    if role is not None:
        query = query.join(ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id).where(ITEMS.c.role == role)
    return db.scalar(query) or 0
