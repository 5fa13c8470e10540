"""What a team lead wants to know of a project at any moment, from counters and indexes: no judgement is read for it.

Numbers that need every judgement come from `snapshots`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, select

from thumbs.collect.items import stuck
from thumbs.collect.tables import ASSIGNMENTS, ITEMS
from thumbs.storage import Database


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
