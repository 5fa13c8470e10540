"""Which task a person gets next, and what becomes of its lease."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, case, exists, func, insert, not_, or_, select, update

from thumbs.collect.access import Access, access_of, given
from thumbs.collect.errors import CollectError
from thumbs.collect.judgement import read_gold, read_judgement
from thumbs.collect.projects import newest_version, read_question
from thumbs.collect.question import is_right
from thumbs.collect.records import NoTask
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.tables import ASSIGNMENTS, GUIDELINES, ITEMS, JUDGEMENTS, MEMBERS, QUESTIONS, SLOTS
from thumbs.storage import Database

Found = Row[*tuple[Any, ...]]
"""A row of the table of assignments, or of the candidates for one."""

_AT_ONCE = 200
_GIVEN = ("submitted", "skipped")
_COUNTERS = {"live": "n_live", "submitted": "n_done", "skipped": "n_skip"}


_CANDIDATE = [
    ITEMS.c.id,
    ITEMS.c.project_id,
    select(func.count()).where(SLOTS.c.item_id == ITEMS.c.id).correlate(ITEMS).scalar_subquery().label("slots"),
]
"""What is asked of an item before it is given to somebody."""


_ROOM = ITEMS.c.n_live + ITEMS.c.n_done < ITEMS.c.target
_ORDER = (ITEMS.c.priority.desc(), ITEMS.c.id)


class Queue:
    """Leases over one database. Rows are those of the table of assignments."""

    def __init__(self, db: Database, clock: Callable[[], datetime], chance: random.Random) -> None:
        self._db, self._clock, self._chance = db, clock, chance

    def held(self, project_id: int, account_id: int) -> Found | None:
        """The task that the person has, where its lease needs no renewal and the project is open to them."""
        with self._db.glance() as db:
            row = db.execute(_live(project_id, account_id)).first()
            if row is None or self._clock() > row.leased + (row.expires - row.leased) / 2:
                return None
            return row if access_of(db, project_id, account_id).closed is None else None

    def next(self, project_id: int, account_id: int) -> Found | NoTask:
        """The person's task, its lease renewed, or the next one, leased to them now."""
        with self._db.transaction(turn=project_id) as db:
            door = access_of(db, project_id, account_id)
            if door.closed is not None:
                return door.closed
            self._enrol(db, door)
            self._expire(db, project_id, apart_from=account_id)
            mine = db.execute(_live(project_id, account_id)).first()
            if mine is not None:
                return self._lease(db, mine.id, door.settings)
            found = self._choose(db, door)
            return found if isinstance(found, str) else self._take(db, found, account_id, door.settings)

    def assign(self, item_id: int, project_id: int, account_id: int) -> Found:
        """That item for that person; raises CollectError if they have another task or a test to finish, Closed if the
        project is not open to them.
        """
        with self._db.transaction(turn=project_id) as db:
            door = access_of(db, project_id, account_id)
            door.check()
            self._enrol(db, door)
            if self._untested(db, door):
                raise CollectError("there is a test to finish first")
            if db.execute(_live(project_id, account_id)).first() is not None:
                raise CollectError("there is a task to finish first")
            item = db.execute(select(*_CANDIDATE).where(ITEMS.c.id == item_id)).one()
            return self._take(db, item, account_id, door.settings)

    def expire(self, project_id: int) -> int:
        """Ends the leases that have run out; returns how many."""
        with self._db.transaction(turn=project_id) as db:
            return self._expire(db, project_id)

    def close(self, db: Connection, row: Found, state: str) -> None:
        """Notes within the transaction that the task has an answer: its state, the item's counters and state."""
        done = ASSIGNMENTS.c.id == row.id
        db.execute(update(ASSIGNMENTS).where(done).values(state=state, revision=row.revision + 1))
        changes = {_COUNTERS[old]: -1 for old in (row.state,) if old in _COUNTERS}
        changes[_COUNTERS[state]] = changes.get(_COUNTERS[state], 0) + 1
        values = {name: ITEMS.c[name] + change for name, change in changes.items()}
        full = case((ITEMS.c.n_done + changes.get("n_done", 0) >= ITEMS.c.target, "done"), else_="open")
        at_work = and_(ITEMS.c.role == "work", ITEMS.c.state != "retired")
        changed = (
            update(ITEMS)
            .where(ITEMS.c.id == row.item_id)
            .values(**values, state=case((at_work, full), else_=ITEMS.c.state))
        )
        db.execute(changed)

    def _enrol(self, db: Connection, door: Access) -> None:
        if not door.is_member:
            row = {"project_id": door.project_id, "account_id": door.account_id, "paused": False}
            db.execute(insert(MEMBERS).values(**row, created=self._clock()))

    def _expire(self, db: Connection, project_id: int, apart_from: int | None = None) -> int:
        ended = and_(
            ASSIGNMENTS.c.project_id == project_id, ASSIGNMENTS.c.state == "live", ASSIGNMENTS.c.expires < self._clock()
        )
        if apart_from is not None:
            ended = and_(ended, ASSIGNMENTS.c.account_id != apart_from)
        rows = db.execute(select(ASSIGNMENTS.c.id, ASSIGNMENTS.c.item_id).where(ended).limit(_AT_ONCE)).all()
        for row in rows:
            db.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == row.id).values(state="expired"))
            count(db, row.item_id, {"n_live": -1})
        return len(rows)

    def _choose(self, db: Connection, door: Access) -> Found | NoTask:
        """What the person judges next: what they had when their time ran out, the test of new people, now and then
        what has a known answer, then the work.
        """
        project_id, account_id, settings = door.project_id, door.account_id, door.settings
        returned = self._returned(db, project_id, account_id)
        if returned is not None and returned.had == "expired":
            return returned
        if (test := self._untested(db, door)) is not None:
            return test
        turn = settings.gold_every and self._chance.randrange(settings.gold_every) == 0
        if turn and given(db, project_id, account_id, *_GIVEN):
            known = self._unseen(db, project_id, account_id, "gold", "attention")
            if known is not None:
                return known
        fresh = self._fresh(db, project_id, account_id)
        if fresh is not None:
            return fresh
        return _why_nothing(db, project_id, account_id) if returned is None else returned

    def _untested(self, db: Connection, door: Access) -> Found | NoTask | None:
        """What keeps the person from work: the next item of the test, or having failed it; None if nothing does."""
        if not door.settings.qualify_items or door.qualified is True:
            return None
        return self._next_of_test(db, door)

    def _next_of_test(self, db: Connection, door: Access) -> Found | NoTask | None:
        """The next item of the qualification; None once it is passed, or where there is no item for it."""
        qualified = door.qualified
        if qualified is None:
            tried = given(db, door.project_id, door.account_id, *_GIVEN, role="qualification")
            left = self._unseen(db, door.project_id, door.account_id, "qualification")
            if left is not None and tried < door.settings.qualify_items:
                return left
            qualified = self._qualify(db, door.project_id, door.account_id, door.settings) if tried else True
        return None if qualified else "not_qualified"

    def _unseen(self, db: Connection, project_id: int, account_id: int, *roles: str) -> Found | None:
        """An item of those roles by chance, of those that the person never had."""
        query = select(*_CANDIDATE).where(
            ITEMS.c.project_id == project_id,
            ITEMS.c.state == "open",
            ITEMS.c.role.in_(roles),
            not_(_had(account_id)),
        )
        found = db.execute(query.order_by(*_ORDER).limit(_AT_ONCE)).all()
        return self._chance.choice(found) if found else None

    def _returned(self, db: Connection, project_id: int, account_id: int) -> Found | None:
        """What the person once had and did not answer: first what ran out, then what they gave back."""
        lost = and_(ASSIGNMENTS.c.account_id == account_id, ASSIGNMENTS.c.project_id == project_id)
        query = (
            select(*_CANDIDATE, ASSIGNMENTS.c.id.label("assignment"), ASSIGNMENTS.c.state.label("had"))
            .join(ASSIGNMENTS, ASSIGNMENTS.c.item_id == ITEMS.c.id)
            .where(lost, ASSIGNMENTS.c.state.in_(("expired", "released")), ITEMS.c.state == "open")
            .where(or_(ITEMS.c.role != "work", _ROOM))
        )
        return db.execute(query.order_by(ASSIGNMENTS.c.state, *_ORDER).limit(1)).first()

    def _fresh(self, db: Connection, project_id: int, account_id: int) -> Found | None:
        """The first item of the work that the person never had; turns of conversations are nobody else's."""
        query = select(*_CANDIDATE).where(*_work_of(project_id), _ROOM, ITEMS.c.conversation_id.is_(None))
        return db.execute(query.where(not_(_had(account_id))).order_by(*_ORDER).limit(1)).first()

    def _take(self, db: Connection, item: Found, account_id: int, settings: ProjectSettings) -> Found:
        """Leases the item: an assignment that the person had of it is opened again, in the same order of sides."""
        values = {
            "state": "live",
            "question_id": newest_version(QUESTIONS, item.project_id),
            "guideline_id": newest_version(GUIDELINES, item.project_id),
            **self._times(settings),
        }
        db.execute(update(ITEMS).where(ITEMS.c.id == item.id).values(n_live=ITEMS.c.n_live + 1))
        if (old := getattr(item, "assignment", None)) is not None:
            again = update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == old).values(values)
            return db.execute(again.returning(ASSIGNMENTS)).one()
        row = {
            "id": secrets.token_urlsafe(18),
            "item_id": item.id,
            "project_id": item.project_id,
            "account_id": account_id,
            "display": self._chance.sample(range(item.slots), item.slots),
            "revision": 0,
        }
        return db.execute(insert(ASSIGNMENTS).values(**row, **values).returning(ASSIGNMENTS)).one()

    def _lease(self, db: Connection, assignment: str, settings: ProjectSettings) -> Found:
        renewed = update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment).values(**self._times(settings))
        return db.execute(renewed.returning(ASSIGNMENTS)).one()

    def _times(self, settings: ProjectSettings) -> dict[str, datetime]:
        now = self._clock()
        return {"leased": now, "expires": now + timedelta(seconds=settings.lease_s)}

    def _qualify(self, db: Connection, project_id: int, account_id: int, settings: ProjectSettings) -> bool:
        """Decides, once and for all, by the answers of the test so far; a skip is not a right answer."""
        standing = (
            select(JUDGEMENTS, ASSIGNMENTS.c.display, ITEMS.c.gold, ITEMS.c.question_id.label("gold_question"))
            .join(ASSIGNMENTS, ASSIGNMENTS.c.id == JUDGEMENTS.c.assignment_id)
            .join(ITEMS, ITEMS.c.id == ASSIGNMENTS.c.item_id)
            .where(
                ITEMS.c.role == "qualification",
                ITEMS.c.project_id == project_id,
                ASSIGNMENTS.c.account_id == account_id,
                JUDGEMENTS.c.revision == ASSIGNMENTS.c.revision,
            )
        )
        versions = db.execute(select(QUESTIONS).where(QUESTIONS.c.project_id == project_id)).all()
        asked = {row.id: (read_question(row.body), row.version) for row in versions}
        right = []
        for row in db.execute(standing):
            gold = read_gold(row.gold, asked[row.gold_question][0])
            right.append(gold is not None and is_right(read_judgement(row, *asked[row.question_id]).answer, gold))
        where = (MEMBERS.c.project_id == project_id, MEMBERS.c.account_id == account_id)
        passed = sum(right) >= settings.qualify_share * len(right)
        db.execute(update(MEMBERS).where(*where).values(qualified=passed))
        return passed


def count(db: Connection, item_id: int, changes: dict[str, int]) -> None:
    """Adds to counters of an item."""
    values = {name: ITEMS.c[name] + change for name, change in changes.items() if change}
    if values:
        db.execute(update(ITEMS).where(ITEMS.c.id == item_id).values(values))


def _work_of(project_id: int) -> tuple[Any, ...]:
    return ITEMS.c.project_id == project_id, ITEMS.c.state == "open", ITEMS.c.role == "work"


def _why_nothing(db: Connection, project_id: int, account_id: int) -> NoTask:
    """Whether others hold what the person could have."""
    held = exists().where(*_work_of(project_id), ITEMS.c.n_live > 0, not_(_had(account_id)))
    return "all_leased" if db.scalar(select(held)) else "done"


def _live(project_id: int, account_id: int) -> Any:
    return select(ASSIGNMENTS).where(
        ASSIGNMENTS.c.project_id == project_id, ASSIGNMENTS.c.account_id == account_id, ASSIGNMENTS.c.state == "live"
    )


def _had(account_id: int) -> Any:
    """Whether the person ever had the item."""
    return exists().where(ASSIGNMENTS.c.item_id == ITEMS.c.id, ASSIGNMENTS.c.account_id == account_id)
