"""The judgements that stand, for statistics and exports: read in one go, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, Select, func, select, text

from thumbs.clients.database import Database
from thumbs.collect.projects import read_question
from thumbs.collect.question import stored_answer
from thumbs.collect.records import ItemFacts, ItemRole, Vote
from thumbs.collect.tables import ASSIGNMENTS, ITEMS, JUDGEMENTS, QUESTIONS, RESPONSES, SLOTS

_AT_ONCE = 1000


class Votes:
    """Reads; of each assignment the last revision stands. A `watermark` shows what stood when it was the newest."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def all(
        self, project_id: int, *, watermark: int | None = None, roles: Sequence[ItemRole] = ("work",)
    ) -> Iterator[Vote]:
        """Every judgement that stands, skips included, by item and then by age; in constant memory."""
        query = (
            _standing(watermark)
            .join(ITEMS, ITEMS.c.id == JUDGEMENTS.c.item_id)
            .where(ITEMS.c.project_id == project_id, ITEMS.c.role.in_(roles))
            .order_by(JUDGEMENTS.c.item_id, JUDGEMENTS.c.id)
        )
        yield from self._stream(query)

    def of_items(self, item_ids: Sequence[int], watermark: int | None = None) -> Iterator[Vote]:
        """Those of some items, by item and then by age."""
        query = _standing(watermark).where(JUDGEMENTS.c.item_id.in_(item_ids))
        yield from self._stream(query.order_by(JUDGEMENTS.c.item_id, JUDGEMENTS.c.id))

    def of_item(self, item_id: int) -> list[Vote]:
        """Those of one item, oldest first."""
        return list(self.of_items([item_id]))

    def revisions(self, assignment: str) -> list[Vote]:
        """Everything that was said in one assignment, oldest first, the last stands."""
        query = _with_display().where(JUDGEMENTS.c.assignment_id == assignment)
        return list(self._stream(query.order_by(JUDGEMENTS.c.revision)))

    def facts(self, project_id: int, *, roles: Sequence[ItemRole] = ("work",)) -> Iterator[ItemFacts]:
        """What statistics need of every item that has an answer, by id."""
        query = (
            select(
                *ITEMS.c["id", "role", "gold"],
                QUESTIONS.c.body,
                SLOTS.c.slot,
                RESPONSES.c.generator_id,
                func.length(RESPONSES.c.text).label("length"),
            )
            .join(QUESTIONS, QUESTIONS.c.id == ITEMS.c.question_id)
            .join(SLOTS, SLOTS.c.item_id == ITEMS.c.id, isouter=True)
            .join(RESPONSES, RESPONSES.c.id == SLOTS.c.response_id, isouter=True)
            .where(ITEMS.c.project_id == project_id, ITEMS.c.role.in_(roles), ITEMS.c.n_done + ITEMS.c.n_skip > 0)
            .order_by(ITEMS.c.id, SLOTS.c.slot)
        )
        held: list[Row[Any]] = []
        with self._db.reading() as db:
            for row in db.execute(query.execution_options(yield_per=_AT_ONCE)):
                if held and held[0].id != row.id:
                    yield _facts(held)
                    held = []
                held.append(row)
        if held:
            yield _facts(held)

    def watermark(self, project_id: int) -> int:
        """The number of the newest judgement, 0 where there is none; none with a smaller number can come later."""
        newest = select(func.max(JUDGEMENTS.c.id)).where(JUDGEMENTS.c.project_id == project_id)
        if self._db.is_sqlite:
            return self._db.values(newest)[0] or 0
        with self._db.transaction() as db:
            # A writer has its number before its row can be seen: wait for those under way.
            db.execute(text("LOCK TABLE judgements IN SHARE MODE"))
            return db.scalar(newest) or 0

    def _stream(self, query: Select[Any]) -> Iterator[Vote]:
        with self._db.reading() as db:
            for row in db.execute(query.execution_options(yield_per=_AT_ONCE)):
                yield _vote(row)


def _with_display() -> Select[Any]:
    return select(JUDGEMENTS, ASSIGNMENTS.c.display).join(ASSIGNMENTS, ASSIGNMENTS.c.id == JUDGEMENTS.c.assignment_id)


def _standing(watermark: int | None) -> Select[Any]:
    if watermark is None:
        return _with_display().where(JUDGEMENTS.c.revision == ASSIGNMENTS.c.revision)
    later = JUDGEMENTS.alias()
    revised = (
        select(later.c.id)
        .where(
            later.c.assignment_id == JUDGEMENTS.c.assignment_id,
            later.c.revision > JUDGEMENTS.c.revision,
            later.c.id <= watermark,
        )
        .exists()
    )
    return _with_display().where(JUDGEMENTS.c.id <= watermark, ~revised)


def _vote(row: Row[Any]) -> Vote:
    return Vote(
        judgement=row.id,
        assignment=row.assignment_id,
        item=row.item_id,
        account=row.account_id,
        question=row.question_id,
        guideline=row.guideline_id,
        answer=stored_answer(row.answer),
        display=tuple(row.display),
        active_ms=row.active_ms,
        wall_ms=row.wall_ms,
        late=row.late,
        at=row.created,
    )


def _facts(rows: Sequence[Row[Any]]) -> ItemFacts:
    first, slots = rows[0], [row for row in rows if row.slot is not None]
    return ItemFacts(
        item=first.id,
        kind=read_question(first.body).kind,
        role=first.role,
        generators=tuple(row.generator_id for row in slots),
        lengths=tuple(row.length for row in slots),
        gold=None if first.gold is None else stored_answer(first.gold),
    )
