"""What a team lead wants to know of a project at any moment, from counters and indexes: no judgement is read for it.

Numbers that need every judgement come from `snapshots`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, case, func, literal_column, select

from thumbs.collect.records import ItemRecord, ItemRole, ItemState
from thumbs.collect.tables import ASSIGNMENTS, ITEMS, MEMBERS
from thumbs.storage import Database

_COLUMNS = [ITEMS.c[name] for name in ItemRecord.__dataclass_fields__]
_IDS_AT_ONCE = 5000
STATES: tuple[ItemState, ...] = ("open", "done", "retired")
ROLES: tuple[ItemRole, ...] = ("work", "gold", "attention", "qualification")


@dataclass(frozen=True)
class ProjectProgress:
    """How far a project is. open, done, retired: items of the work; given: judgements that its items have, none above
    their targets; wanted: those they are to have; live: tasks that somebody has now; stuck: open items that nobody
    is left for, as all who take part have judged them or passed them on; known: items whose answer is known.
    """

    open: int = 0
    done: int = 0
    retired: int = 0
    given: int = 0
    wanted: int = 0
    live: int = 0
    stuck: int = 0
    known: int = 0

    @property
    def items(self) -> int:
        """Items of the work that are not retired."""
        return self.open + self.done

    @property
    def share(self) -> float:
        """The part of the wanted judgements that is there, 0 … 1."""
        return self.given / self.wanted if self.wanted else 0.0


def progress(db: Database, project_id: int | None = None) -> dict[int, ProjectProgress]:
    """The progress of one project, or of each that has items, by project id."""
    given = case((ITEMS.c.n_done < ITEMS.c.target, ITEMS.c.n_done), else_=ITEMS.c.target)
    of = () if project_id is None else (ITEMS.c.project_id == project_id,)
    items = select(
        ITEMS.c.project_id, ITEMS.c.state, ITEMS.c.role, func.count(), func.sum(given), func.sum(ITEMS.c.target)
    ).group_by(ITEMS.c.project_id, ITEMS.c.state, ITEMS.c.role)
    live = select(ASSIGNMENTS.c.project_id, func.count()).where(ASSIGNMENTS.c.state == "live")
    if project_id is not None:
        items = items.where(ITEMS.c.project_id == project_id)
        live = live.where(ASSIGNMENTS.c.project_id == project_id)
    counted: dict[int, dict[str, int]] = {}
    with db.reading() as connection:
        for project, state, role, n, had, wanted in connection.execute(items):
            of = counted.setdefault(project, dict.fromkeys(ProjectProgress.__dataclass_fields__, 0))
            if role != "work":
                of["known"] += n if state != "retired" else 0
                continue
            of[state] += n
            if state != "retired":
                of["given"] += int(had)
                of["wanted"] += int(wanted)
        for project, n in connection.execute(live.group_by(ASSIGNMENTS.c.project_id)):
            counted[project]["live"] = n
        for project, of in counted.items():
            held = select(func.count()).select_from(ITEMS).where(ITEMS.c.role == "work", *stuck(project))
            of["stuck"] = connection.scalar(held) or 0
    return {project: ProjectProgress(**numbers) for project, numbers in counted.items()}


def stuck(project_id: int) -> tuple[Any, ...]:
    """The conditions of open items of a project that nobody is left for."""
    people = (
        select(func.count())
        .select_from(MEMBERS)
        .where(MEMBERS.c.project_id == project_id, MEMBERS.c.paused.is_(False))
        .scalar_subquery()
    )
    return (
        ITEMS.c.project_id == project_id,
        ITEMS.c.state == "open",
        ITEMS.c.n_skip > literal_column("0"),
        ITEMS.c.n_live == 0,
        ITEMS.c.n_done + ITEMS.c.n_skip >= people,
    )


@dataclass(frozen=True)
class Wanted:
    """Which items to list. skipped: somebody passed it on; judged: somebody answered; ids: these alone, in ascending
    order; None: any.
    """

    state: str | None = None
    role: str | None = None
    stuck: bool = False
    skipped: bool = False
    judged: bool = False
    ids: Sequence[int] | None = None


def items_page(db: Database, project_id: int, wanted: Wanted, after: int = 0, limit: int = 50) -> list[ItemRecord]:
    """The next items by id that are as wanted."""
    query = select(*_COLUMNS).where(ITEMS.c.id > after, *_conditions(project_id, wanted)).order_by(ITEMS.c.id)
    if wanted.ids is None:
        return _merged(db, query, wanted, limit)
    chosen = query if wanted.state is None else query.where(ITEMS.c.state == wanted.state)
    chosen = chosen if wanted.role is None else chosen.where(ITEMS.c.role == wanted.role)
    found: list[ItemRecord] = []
    for start in range(bisect_right(wanted.ids, after), len(wanted.ids), _IDS_AT_ONCE):
        some = wanted.ids[start : start + _IDS_AT_ONCE]
        found += db.all(ItemRecord, chosen.where(ITEMS.c.id.in_(some)).limit(limit - len(found)))
        if len(found) == limit:
            break
    return found


def _merged(db: Database, query: Select[Any], wanted: Wanted, limit: int) -> list[ItemRecord]:
    """One query for each state and role: the index has the ids of each in order, and not those of several."""
    found: list[ItemRecord] = []
    with db.reading() as connection:
        for state in STATES if wanted.state is None else (wanted.state,):
            for role in ROLES if wanted.role is None else (wanted.role,):
                one = query.where(ITEMS.c.state == state, ITEMS.c.role == role).limit(limit)
                found += [ItemRecord(**row._asdict()) for row in connection.execute(one)]
    return sorted(found, key=lambda record: record.id)[:limit]


def _conditions(project_id: int, wanted: Wanted) -> list[Any]:
    where = [ITEMS.c.project_id == project_id]
    if wanted.stuck:
        where.extend(stuck(project_id))
    if wanted.skipped:
        where.append(ITEMS.c.n_skip > literal_column("0"))
    if wanted.judged:
        where.append(ITEMS.c.n_done > 0)
    return where
