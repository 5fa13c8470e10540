"""The judgements that stand, for statistics and exports: read in one go, however many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, Select, func, select, text

from thumbs.collect.judgement import Counting, Rule, read_gold, read_judgement
from thumbs.collect.projects import Projects, read_question
from thumbs.collect.records import Answer, ItemFacts, ItemRole, Vote
from thumbs.collect.tables import ACCOUNTS, ASSIGNMENTS, ITEMS, JUDGEMENTS, QUESTIONS, RESPONSES, SLOTS
from thumbs.storage import Database

_AT_ONCE = 1000


class Votes:
    """Reads; of each assignment the last revision stands. A `watermark` shows what stood when it was the newest.

    `counting` says which judgements count, None: the project's settings do; `Counting()`: all.
    """

    def __init__(self, db: Database, projects: Projects) -> None:
        self._db, self._projects = db, projects

    def all(
        self,
        project_id: int,
        *,
        watermark: int | None = None,
        roles: Sequence[ItemRole] = ("work",),
        counting: Counting | None = None,
    ) -> Iterator[Vote]:
        """Every judgement that stands and counts, skips included, by item and then by age; in constant memory."""
        query = (
            _standing(watermark)
            .join(ITEMS, ITEMS.c.id == JUDGEMENTS.c.item_id)
            .where(ITEMS.c.project_id == project_id, ITEMS.c.role.in_(roles))
            .order_by(JUDGEMENTS.c.item_id, JUDGEMENTS.c.id)
        )
        rule = self.rule(project_id, counting)
        yield from (vote for vote in self._stream(query) if rule.why_not(vote) is None)

    def of_items(
        self, item_ids: Sequence[int], watermark: int | None = None, counting: Counting | None = None
    ) -> Iterator[Vote]:
        """The votes on some items of one project, by item and then by age."""
        if not item_ids:
            return
        projects = self._db.values(select(ITEMS.c.project_id).where(ITEMS.c.id == item_ids[0]))
        if not projects:
            return
        rule = self.rule(projects[0], counting)
        query = _standing(watermark).where(JUDGEMENTS.c.item_id.in_(item_ids))
        votes = self._stream(query.order_by(JUDGEMENTS.c.item_id, JUDGEMENTS.c.id))
        yield from (vote for vote in votes if rule.why_not(vote) is None)

    def by_item(self, item_ids: Sequence[int], counting: Counting | None = None) -> dict[int, list[Vote]]:
        """The votes on each of some items of one project, oldest first."""
        found: dict[int, list[Vote]] = {item: [] for item in item_ids}
        for vote in self.of_items(item_ids, counting=counting):
            found[vote.item].append(vote)
        return found

    def of_item(self, item_id: int) -> list[Vote]:
        """Everything that stands of one item, oldest first, whether it counts or not."""
        query = _standing(None).where(JUDGEMENTS.c.item_id == item_id)
        return list(self._stream(query.order_by(JUDGEMENTS.c.id)))

    def revisions(self, assignment: str) -> list[Vote]:
        """Everything that was said in one assignment, oldest first, the last stands."""
        query = _with_display().where(JUDGEMENTS.c.assignment_id == assignment)
        return list(self._stream(query.order_by(JUDGEMENTS.c.revision)))

    def rule(self, project_id: int, counting: Counting | None = None) -> Rule:
        """Which judgements of a project count."""
        counting = self._projects.settings(project_id) if counting is None else counting
        named = select(ACCOUNTS.c.id).where(ACCOUNTS.c.handle.in_(counting.exclude_people))
        return Rule(counting, frozenset(self._db.values(named) if counting.exclude_people else ()))

    def golds(self, item_ids: Sequence[int]) -> dict[int, Answer]:
        """The right answers of those of the items that have one, in terms of the better reply."""
        query = select(ITEMS.c.id, ITEMS.c.gold, QUESTIONS.c.body).where(ITEMS.c.id.in_(item_ids))
        with self._db.reading() as db:
            rows = db.execute(query.join(QUESTIONS, QUESTIONS.c.id == ITEMS.c.question_id)).all()
        read = {row.id: read_gold(row.gold, read_question(row.body)) for row in rows}
        return {item: answer for item, answer in read.items() if answer is not None}

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
                asked = self._projects.version("questions", row.question_id)
                yield read_judgement(row, read_question(asked.body), asked.version)


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


def _facts(rows: Sequence[Row[Any]]) -> ItemFacts:
    first, slots = rows[0], [row for row in rows if row.slot is not None]
    question = read_question(first.body)
    return ItemFacts(
        item=first.id,
        kind=question.kind,
        role=first.role,
        generators=tuple(row.generator_id for row in slots),
        lengths=tuple(row.length for row in slots),
        gold=read_gold(first.gold, question),
    )
