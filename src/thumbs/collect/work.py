"""Who judges what: tasks are leased, answers are kept exactly once, nothing that was given is ever lost.

A lease steers work and discards none: an answer that comes after its end counts, marked `late`. All changes of one
project happen one after the other, in one transaction each.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, case, func, insert, select, update

from thumbs.collect.access import Access, access_of, given
from thumbs.collect.errors import CollectError, Conflict, NotFound
from thumbs.collect.items import Items, excerpt
from thumbs.collect.projects import Projects, read_question
from thumbs.collect.question import Question, read_answer, shown_answer
from thumbs.collect.queue import Found, Queue, count
from thumbs.collect.records import Answer, Effort, ItemRole, NoTask, Past, Saved, Task, Texts
from thumbs.collect.screening import hidden_of
from thumbs.collect.tables import ACCOUNTS, ASSIGNMENTS, ITEMS, JUDGEMENTS, PROMPTS, SLOTS
from thumbs.collect.votes import Votes
from thumbs.data.sources import canonical_json
from thumbs.records import Generator, Reply
from thumbs.storage import Database

_EXCERPT = 120


class Tasks:
    """What annotators do; every method is about the account that asks, and no other."""

    def __init__(
        self,
        db: Database,
        projects: Projects,
        items: Items,
        votes: Votes,
        clock: Callable[[], datetime],
        chance: random.Random,
    ) -> None:
        self._db, self._projects, self._items, self._votes, self._clock = db, projects, items, votes, clock
        self._queue = Queue(db, clock, chance)

    def claim(self, project_id: int, account_id: int) -> Task | NoTask:
        """The person's task: the one they have, in whichever tab, or the next; otherwise why there is none."""
        row = self._queue.held(project_id, account_id)  # most often: no write, so nobody waits
        if row is None:
            found = self._queue.next(project_id, account_id)
            if isinstance(found, str):
                chats = found in ("done", "all_leased") and self._projects.question(project_id)[1].kind == "chat"
                return "your_turn" if chats else found
            row = found
        return self._task(row)

    def submit(
        self, assignment: str, account_id: int, key: str, body: Mapping[str, Any], effort: Effort | None = None
    ) -> Saved:
        """Keeps an answer, in display order as `read_answer` takes it; the same `key` again changes nothing.

        Raises AnswerError for what the question does not allow, NotFound if the task is not this person's, Conflict
        if it has an answer already (revise that) or the key came with another one.
        """
        return self._keep(assignment, account_id, key, body, effort or Effort(), expected=0)

    def revise(
        self,
        assignment: str,
        account_id: int,
        key: str,
        expected: int,
        body: Mapping[str, Any],
        effort: Effort | None = None,
    ) -> Saved:
        """Adds a revision to the answer of revision `expected`; raises Conflict if another one stands."""
        if expected < 1:
            raise Conflict("a revision is of an answer that was given; revisions count from 1")
        return self._keep(assignment, account_id, key, body, effort or Effort(), expected)

    def show(self, assignment: str, account_id: int) -> Task:
        """The person's own task again, with their answer where there is one; raises NotFound, and Closed if they may
        not see it any more.
        """
        with self._db.reading() as db:
            row = _own(db, assignment, account_id)
        self.access(row.project_id, account_id).check_own()
        said = self._votes.revisions(assignment)[: row.revision]
        return self._task(row, shown_answer(said[-1].as_given, row.display) if said else None)

    def history(self, project_id: int, account_id: int, before: int | None = None, limit: int = 20) -> list[Past]:
        """Own answers that stand, newest first; `before` is the item in the last line of a page before. Raises Closed
        if the person may not see them any more.
        """
        self.access(project_id, account_id).check_own()
        query = (
            select(JUDGEMENTS)
            .join(ASSIGNMENTS, ASSIGNMENTS.c.id == JUDGEMENTS.c.assignment_id)
            .where(JUDGEMENTS.c.account_id == account_id, JUDGEMENTS.c.project_id == project_id)
            .where(JUDGEMENTS.c.revision == ASSIGNMENTS.c.revision)
            .order_by(JUDGEMENTS.c.id.desc())
            .limit(limit)
        )
        if before is not None:
            newest = select(func.max(JUDGEMENTS.c.id)).where(
                JUDGEMENTS.c.item_id == before, JUDGEMENTS.c.account_id == account_id
            )
            query = query.where(JUDGEMENTS.c.id < newest.scalar_subquery())
        with self._db.reading() as db:
            rows = db.execute(query).all()
        texts = self._items.texts([row.item_id for row in rows])
        return [_past(row, texts[row.item_id]) for row in rows]

    def given(
        self, project_id: int, account_id: int, role: ItemRole | None = None, states: Sequence[str] = ("submitted",)
    ) -> int:
        """How many answers of this person stand, skips apart; `role`: to items of that role alone."""
        with self._db.glance() as db:
            return given(db, project_id, account_id, *states, role=role)

    def answered(self, project_id: int, account_id: int) -> int:
        """How many tasks this person answered, those passed on with a reason among them."""
        return self.given(project_id, account_id, states=("submitted", "skipped"))

    def access(self, project_id: int, account_id: int) -> Access:
        """Whether the project is open to the person; raises NotFound if there is none."""
        with self._db.glance() as db:
            return access_of(db, project_id, account_id)

    def project_of(self, assignment: str, account_id: int) -> int:
        """The project of the person's own task; raises NotFound."""
        with self._db.glance() as db:
            return _own(db, assignment, account_id).project_id

    def release(self, assignment: str, account_id: int) -> None:
        """Gives a task back to the others; it may come back to this person when all else is done."""
        project_id = self.project_of(assignment, account_id)
        with self._db.transaction(turn=project_id) as db:
            row = _own(db, assignment, account_id)
            if row.state == "live":
                count(db, row.item_id, {"n_live": -1})
                db.execute(update(ASSIGNMENTS).where(ASSIGNMENTS.c.id == assignment).values(state="released"))

    def heartbeat(self, assignment: str, account_id: int) -> datetime:
        """Renews the lease of a task that the person still looks at; returns its new end."""
        project_id = self.project_of(assignment, account_id)
        expires = self._clock() + timedelta(seconds=self._projects.settings(project_id).lease_s)
        mine = (ASSIGNMENTS.c.id == assignment, ASSIGNMENTS.c.state == "live")
        self._db.execute(update(ASSIGNMENTS).where(*mine).values(expires=expires))
        return expires

    def expire(self) -> int:
        """Ends the leases that have run out, in all projects; returns how many."""
        return sum(self._queue.expire(project.id) for project in self._projects.all())

    def recount(self) -> list[int]:
        """Items whose counters are not what their assignments say; there should be none."""

        def number(*states: str) -> Any:
            return func.coalesce(func.sum(case((ASSIGNMENTS.c.state.in_(states), 1), else_=0)), 0)

        counted = (
            select(ITEMS.c.id)
            .join(ASSIGNMENTS, ASSIGNMENTS.c.item_id == ITEMS.c.id, isouter=True)
            .group_by(ITEMS.c.id, ITEMS.c.n_live, ITEMS.c.n_done, ITEMS.c.n_skip)
            .having(
                (ITEMS.c.n_live != number("live"))
                | (ITEMS.c.n_done != number("submitted"))
                | (ITEMS.c.n_skip != number("skipped"))
            )
        )
        return self._db.values(counted)

    def assign(self, item_id: int, project_id: int, account_id: int) -> Task:
        """Gives that item to that person, who has no task now; for chats, where a turn is nobody else's. Raises Closed
        if the project is not open to them.
        """
        return self._task(self._queue.assign(item_id, project_id, account_id))

    def _keep(
        self, assignment: str, account_id: int, key: str, body: Mapping[str, Any], effort: Effort, expected: int
    ) -> Saved:
        if not 8 <= len(key) <= 100 or "\0" in key:
            raise CollectError("an idempotency key has 8 to 100 characters; make a random one for each answer")
        digest = hashlib.sha256(canonical_json([assignment, expected, body]).encode("ascii")).hexdigest()
        with self._db.glance() as db:
            asked = _own(db, assignment, account_id)
        question = self._question(asked.question_id)
        with self._db.transaction(durable=True, turn=asked.project_id) as db:
            if (replayed := _replayed(db, key, account_id, digest)) is not None:
                return replayed
            row = _own(db, assignment, account_id)
            if row.revision != expected:
                raise Conflict(f"this task has an answer, revision {row.revision}", row.revision)
            if row.question_id != asked.question_id:
                raise Conflict("the question was changed while the task was given out again; load the page again")
            answer = read_answer(question, row.display, body)
            late = expected == 0 and (row.state != "live" or row.expires < self._clock())
            written = self._written(db, row, answer, question.kind) if answer.text.strip() else None
            values = {
                **{name: getattr(row, name) for name in _STAMPS},
                "assignment_id": row.id,
                "revision": row.revision + 1,
                "key": key,
                "body_sha256": digest,
                "verdict": answer.verdict,
                "strength": answer.strength,
                "answer": asdict(answer),
                "written_id": written,
                **asdict(effort),
                "late": late,
                "created": self._clock(),
            }
            db.execute(insert(JUDGEMENTS).values(values))
            self._queue.close(db, row, "skipped" if answer.verdict == "skip" else "submitted")
            return Saved(assignment, row.revision + 1, replayed=False, late=late)

    def _written(self, db: Connection, row: Found, answer: Answer, kind: str) -> int:
        """The response that a person wrote, by a generator of their own."""
        handle = db.scalar(select(ACCOUNTS.c.handle).where(ACCOUNTS.c.id == row.account_id))
        prompt = db.execute(
            select(PROMPTS.c.id, PROMPTS.c.digest)
            .join(ITEMS, ITEMS.c.prompt_id == PROMPTS.c.id)
            .where(ITEMS.c.id == row.item_id)
        ).one()
        original = select(SLOTS.c.response_id).where(SLOTS.c.item_id == row.item_id, SLOTS.c.slot == 0)
        edited = db.scalar(original) if kind == "rewrite" else None
        reply = Reply(answer.text, Generator("human", str(handle)))
        return self._items.response(db, prompt.id, prompt.digest, reply, edited)[0]

    def _question(self, version_id: int) -> Question:
        return read_question(self._projects.version("questions", version_id).body)

    def _task(self, row: Found, earlier: Mapping[str, Any] | None = None) -> Task:
        question = self._question(row.question_id)
        texts = self._items.text(row.item_id)
        shown = [texts.replies[slot] for slot in row.display]
        return Task(
            assignment=row.id,
            kind=question.kind,
            question=question.model_dump(mode="json"),
            question_version=self._projects.version("questions", row.question_id).version,
            guideline_version=self._projects.version("guidelines", row.guideline_id).version,
            messages=texts.messages,
            replies=tuple(reply.text for reply in shown),
            cut=tuple(reply.stop_reason == "length" for reply in shown),
            expires=row.expires,
            revision=row.revision,
            earlier=earlier,
            hidden=hidden_of(texts),
        )


_STAMPS = ("item_id", "project_id", "account_id", "question_id", "guideline_id")


def _own(db: Connection, assignment: str, account_id: int) -> Found:
    """The assignment's row; raises NotFound if it is somebody else's, as if there were none."""
    mine = (ASSIGNMENTS.c.id == assignment, ASSIGNMENTS.c.account_id == account_id)
    row = db.execute(select(ASSIGNMENTS).where(*mine)).first()
    if row is None:
        raise NotFound("there is no such task of yours")
    return row


def _replayed(db: Connection, key: str, account_id: int, digest: str) -> Saved | None:
    row = db.execute(select(JUDGEMENTS).where(JUDGEMENTS.c.key == key)).first()
    if row is None:
        return None
    if row.account_id != account_id or row.body_sha256 != digest:
        raise Conflict("this idempotency key came with another answer; make a new key for each answer", row.revision)
    return Saved(row.assignment_id, row.revision, replayed=True, late=row.late)


def _past(row: Found, texts: Texts) -> Past:
    asked = excerpt(texts.messages, _EXCERPT, hidden_of(texts))
    return Past(row.assignment_id, row.item_id, row.revision, row.verdict, row.strength, asked, row.created)
