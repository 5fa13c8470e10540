"""What is to be judged: prompts, replies with whoever wrote them, and the items that put them before people."""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from sqlalchemy import Connection, Select, Table, func, insert, literal_column, select, update
from sqlalchemy.dialects import postgresql, sqlite

from thumbs.collect.audit import Audit
from thumbs.collect.errors import NotFound
from thumbs.collect.projects import read_question, read_settings
from thumbs.collect.question import Question
from thumbs.collect.records import ITEM_ROLES, STATES, Added, ItemRecord, NewItem, Project, Texts
from thumbs.collect.screening import Hidden, filters_of, screened
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.tables import GENERATORS, ITEMS, MEMBERS, PROJECTS, PROMPTS, QUESTIONS, RESPONSES, SLOTS
from thumbs.data.sources import canonical_json
from thumbs.records import Generator, Message, Reply
from thumbs.safety.filters import FilterSet
from thumbs.storage import Database, inserted_id

MOST_CHARACTERS = 1_000_000
"""The most characters of a prompt or of a reply."""
_AT_ONCE, _A_PAGE, _IDS_AT_ONCE = 200, 1000, 5000


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


_ANY = Wanted()


class Items:
    """Adding what is there already changes nothing: everything is known by its content."""

    def __init__(self, db: Database, audit: Audit, clock: Callable[[], datetime]) -> None:
        self._db, self._audit, self._clock = db, audit, clock
        self.text = lru_cache(maxsize=4096)(self._read_text)
        """text(item_id): what one item puts before people; raises NotFound."""

    def add(self, project_id: int, new: Iterable[NewItem], by: int | None = None) -> Added:
        """Adds items, a few hundred a transaction; what cannot be judged is refused by its place, and costs no other.

        Refused: too few or too many replies for the question, empty or equal ones, an empty prompt, text that cannot
        be kept.
        """
        added, rows = Added(), iter(enumerate(new))
        filters = self._filters(project_id)
        while batch := [(place, screened(filters, item)) for place, item in islice(rows, _AT_ONCE)]:
            self._add_batch(project_id, batch, by, added)
        return added

    def _filters(self, project_id: int) -> FilterSet | None:
        """Before a transaction begins, since a judge may take its time."""
        with self._db.reading() as db:
            row = db.execute(select(PROJECTS).where(PROJECTS.c.id == project_id)).first()
        if row is None:
            raise NotFound(f"there is no project {project_id}")
        return filters_of(read_settings(row))

    def _add_batch(self, project_id: int, batch: Sequence[tuple[int, NewItem]], by: int | None, added: Added) -> None:
        created, refused = added.created, len(added.refused)
        with self._db.transaction(durable=True, turn=project_id) as db:
            row = db.execute(select(PROJECTS).where(PROJECTS.c.id == project_id)).one()
            settings, question_id, question = _rules(db, Project(**row._asdict()))
            for place, item in batch:
                if why := _fault(item, question):
                    added.refused.append((place, why))
                    continue
                item_id, is_new = self._add_one(db, project_id, question_id, settings, item)
                added.ids.append(item_id)
                added.created += is_new
                added.existing += not is_new
            if added.created > created and all(item.conversation is None for _, item in batch):
                told = {"created": added.created - created, "refused": len(added.refused) - refused}
                self._audit.note(db, "items.add", by, project_id, told)

    def _add_one(
        self, db: Connection, project_id: int, question_id: int, settings: ProjectSettings, item: NewItem
    ) -> tuple[int, bool]:
        prompt_id, prompt_digest = self._prompt(db, project_id, item)
        responses = [self.response(db, prompt_id, prompt_digest, reply) for reply in item.replies]
        key = _digest([prompt_digest, item.role, item.conversation, *(digest for _, digest in responses)])
        found = db.scalar(select(ITEMS.c.id).where(ITEMS.c.project_id == project_id, ITEMS.c.key == key))
        if found is not None:
            return found, False
        row = {
            "project_id": project_id,
            "prompt_id": prompt_id,
            "question_id": question_id,
            "conversation_id": item.conversation,
            "key": key,
            "priority": item.priority,
            "target": settings.overlap if item.target is None else item.target,
            "role": item.role,
            "gold": None if item.gold is None else asdict(item.gold),
            "chosen_by": dict(item.chosen_by),
            "created": self._clock(),
        }
        item_id = inserted_id(db.execute(insert(ITEMS).values(row)))
        slots = [{"item_id": item_id, "slot": i, "response_id": id_} for i, (id_, _) in enumerate(responses)]
        if slots:
            db.execute(insert(SLOTS), slots)
        return item_id, True

    def _prompt(self, db: Connection, project_id: int, item: NewItem) -> tuple[int, str]:
        messages = [[message.role, message.content] for message in item.messages]
        digest = _digest(messages)
        row = {"messages": messages, "name": item.name, "created": self._clock()}
        return _found_or_made(db, PROMPTS, row, project_id=project_id, digest=digest), digest

    def response(
        self, db: Connection, prompt_id: int, prompt_digest: str, reply: Reply, edited_from: int | None = None
    ) -> tuple[int, str]:
        """(id, digest) of a reply to a prompt, made within the transaction where it is new."""
        maker = reply.generator
        plain = [maker.kind, maker.name, maker.checkpoint, maker.sampling]
        fingerprint = _digest(plain)
        row: dict[str, Any] = {"kind": maker.kind, "name": maker.name, "checkpoint": maker.checkpoint}
        row["sampling"] = dict(maker.sampling)
        generator_id = _found_or_made(db, GENERATORS, row, fingerprint=fingerprint)
        digest = _digest([prompt_id, prompt_digest, fingerprint, maker.seed, reply.text, edited_from])
        row = {
            "prompt_id": prompt_id,
            "generator_id": generator_id,
            "seed": maker.seed,
            "text": reply.text,
            "stop_reason": reply.stop_reason,
            "edited_from": edited_from,
            "created": self._clock(),
        }
        return _found_or_made(db, RESPONSES, row, digest=digest), digest

    def get(self, item_id: int) -> ItemRecord:
        """The item with its counters; raises NotFound."""
        query = select(ITEMS).where(ITEMS.c.id == item_id)
        return self._db.the(ItemRecord, query, NotFound(f"there is no item {item_id}"))

    def texts(self, item_ids: Sequence[int]) -> dict[int, Texts]:
        """What these items put before people; two queries, however many they are."""
        held = (
            select(*ITEMS.c["id", "conversation_id", "chosen_by"], *PROMPTS.c["messages", "name"])
            .join(PROMPTS, PROMPTS.c.id == ITEMS.c.prompt_id)
            .where(ITEMS.c.id.in_(item_ids))
        )
        written = (
            select(SLOTS.c.item_id, RESPONSES, *GENERATORS.c["kind", "name", "checkpoint", "sampling"])
            .join(RESPONSES, RESPONSES.c.id == SLOTS.c.response_id)
            .join(GENERATORS, GENERATORS.c.id == RESPONSES.c.generator_id)
            .where(SLOTS.c.item_id.in_(item_ids))
            .order_by(SLOTS.c.item_id, SLOTS.c.slot)
        )
        replies: dict[int, list[Reply]] = {item: [] for item in item_ids}
        with self._db.reading() as db:
            for row in db.execute(written):
                maker = Generator(row.kind, row.name, row.checkpoint, row.sampling, row.seed)
                replies[row.item_id].append(Reply(row.text, maker, row.stop_reason))
            return {
                row.id: Texts(
                    item=row.id,
                    name=row.name,
                    conversation=row.conversation_id,
                    chosen_by=row.chosen_by,
                    messages=read_messages(row.messages),
                    replies=tuple(replies[row.id]),
                )
                for row in db.execute(held)
            }

    def page(self, project_id: int, wanted: Wanted = _ANY, after: int = 0, limit: int = 50) -> list[ItemRecord]:
        """The next items by id that are as wanted, those after `after`."""
        found: list[ItemRecord] = []
        if wanted.ids is not None:
            query = _as_wanted(project_id, wanted, after).order_by(ITEMS.c.id)
            for start in range(bisect_right(wanted.ids, after), len(wanted.ids), _IDS_AT_ONCE):
                some = wanted.ids[start : start + _IDS_AT_ONCE]
                found += self._db.all(ItemRecord, query.where(ITEMS.c.id.in_(some)).limit(limit - len(found)))
                if len(found) == limit:
                    break
            return found
        # One query for each state and role: the index has the ids of each in order, and not those of several.
        for state in STATES if wanted.state is None else (wanted.state,):
            for role in ITEM_ROLES if wanted.role is None else (wanted.role,):
                query = _as_wanted(project_id, replace(wanted, state=state, role=role), after)
                found += self._db.all(ItemRecord, query.order_by(ITEMS.c.id).limit(limit))
        return sorted(found, key=lambda record: record.id)[:limit]

    def all(self, project_id: int, wanted: Wanted = _ANY) -> Iterator[ItemRecord]:
        """All items by id that are as wanted, a page in memory at a time."""
        after = 0
        while page := self.page(project_id, wanted, after, _A_PAGE):
            yield from page
            after = page[-1].id

    def count(self, project_id: int) -> dict[str, int]:
        """How many items of the work there are in each state."""
        where = (ITEMS.c.project_id == project_id, ITEMS.c.role == "work")
        with self._db.reading() as db:
            rows = db.execute(select(ITEMS.c.state, func.count().label("n")).where(*where).group_by(ITEMS.c.state))
            return {"open": 0, "done": 0, "retired": 0} | {row.state: row.n for row in rows}

    def open_work(self, project_id: int) -> int:
        """Judgements that are still to be given out: over open items of the work that nobody passed on, the target less
        those done and under way. What somebody passed on may wait for ever.
        """
        left = ITEMS.c.target - ITEMS.c.n_done - ITEMS.c.n_live
        work = (ITEMS.c.project_id == project_id, ITEMS.c.role == "work", ITEMS.c.state == "open")
        total = select(func.coalesce(func.sum(left), 0)).where(*work, ITEMS.c.n_skip == 0, left > 0)
        return int(self._db.values(total)[0])

    def set_target(self, project_id: int, target: int, by: int | None = None) -> None:
        """Judgements wanted of each item that is not retired; those with enough are done, the others open."""
        where = (ITEMS.c.project_id == project_id, ITEMS.c.role == "work", ITEMS.c.state != "retired")
        with self._db.transaction(durable=True, turn=project_id) as db:
            db.execute(update(ITEMS).where(*where).values(target=target))
            db.execute(update(ITEMS).where(*where, ITEMS.c.n_done >= target).values(state="done"))
            db.execute(update(ITEMS).where(*where, ITEMS.c.n_done < target).values(state="open"))
            self._audit.note(db, "items.target", by, project_id, {"target": target})

    def retire(self, item_ids: Sequence[int], by: int | None = None) -> None:
        """Gives them to nobody any more; their judgements stay."""
        self._set_state("items.retire", item_ids, by, {"state": "retired"})

    def reopen(self, item_ids: Sequence[int], by: int | None = None) -> None:
        """Takes back their retirement."""
        self._set_state("items.reopen", item_ids, by, {"state": "open"})

    def _set_state(self, action: str, item_ids: Sequence[int], by: int | None, values: dict[str, Any]) -> None:
        for item_id in item_ids:
            project_id = self.get(item_id).project_id
            with self._db.transaction(durable=True, turn=project_id) as db:
                db.execute(update(ITEMS).where(ITEMS.c.id == item_id).values(values))
                full = (ITEMS.c.state == "open", ITEMS.c.role == "work", ITEMS.c.n_done >= ITEMS.c.target)
                db.execute(update(ITEMS).where(ITEMS.c.id == item_id, *full).values(state="done"))
                self._audit.note(db, action, by, project_id, {"item": item_id})

    def content(self, item_id: int) -> tuple[tuple[Message, ...], tuple[Reply, ...]]:
        """The prompt and the replies of one item; raises NotFound."""
        texts = self.text(item_id)
        return texts.messages, texts.replies

    def _read_text(self, item_id: int) -> Texts:
        texts = self.texts([item_id]).get(item_id)
        if texts is None:
            raise NotFound(f"there is no item {item_id}")
        return texts


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


def _as_wanted(project_id: int, wanted: Wanted, after: int) -> Select[Any]:
    where = [ITEMS.c.project_id == project_id, ITEMS.c.id > after]
    if wanted.state is not None:
        where.append(ITEMS.c.state == wanted.state)
    if wanted.role is not None:
        where.append(ITEMS.c.role == wanted.role)
    if wanted.stuck:
        where.extend(stuck(project_id))
    if wanted.skipped:
        where.append(ITEMS.c.n_skip > literal_column("0"))
    if wanted.judged:
        where.append(ITEMS.c.n_done > 0)
    return select(ITEMS).where(*where)


def excerpt(messages: Sequence[Message], most: int, hidden: Hidden) -> str:
    """The beginning of the last message, of so many characters at most; nothing of one that is hidden."""
    asked = messages[-1].content
    if asked in hidden:
        return "…"
    return asked if len(asked) <= most else asked[: most - 1] + "…"


def read_messages(plain: Sequence[Sequence[str]]) -> tuple[Message, ...]:
    """Messages as the table keeps them: [role, content] each."""
    return tuple(Message(role, content) for role, content in plain)  # type: ignore[arg-type]


def _rules(db: Connection, project: Project) -> tuple[ProjectSettings, int, Question]:
    newest = select(QUESTIONS).where(QUESTIONS.c.project_id == project.id).order_by(QUESTIONS.c.version.desc())
    version = db.execute(newest.limit(1)).one()
    return read_settings(project), version.id, read_question(version.body)


def _fault(item: NewItem, question: Question) -> str:
    """Why the item cannot be judged, or ""."""
    low, high = question.replies
    texts = [reply.text for reply in item.replies]
    if not low <= len(texts) <= high:
        wanted = str(low) if low == high else f"{low} to {high}"
        return f"{len(texts)} replies; {question.kind!r} takes {wanted}"
    if not item.messages or not item.messages[-1].content.strip():
        return "an empty prompt"
    if not all(text.strip() for text in texts):
        return f"reply {[bool(text.strip()) for text in texts].index(False)} is empty"
    if len({text.strip() for text in texts}) < len(texts):
        return "two replies are the same, so there is nothing to choose"
    whole = [message.content for message in item.messages] + texts
    if any(len(text) > MOST_CHARACTERS for text in whole):
        return f"a text of more than {MOST_CHARACTERS} characters"
    makers = [reply.generator for reply in item.replies]
    names = [item.name, *(name for maker in makers for name in (maker.name, maker.checkpoint))]
    if not all(can_be_kept(text) for text in (*whole, *names)):
        return "a text with a NUL or half a character, which a database cannot keep"
    if not all(maker.seed is None or _is_64_bits(maker.seed) for maker in makers):
        return "a generator's seed that is no whole number of 64 bits"
    return ""


def can_be_kept(text: str) -> bool:
    """Whether a database takes the text: no NUL in it, and no half of a character."""
    return not re.search("[\0\ud800-\udfff]", text)


def _is_64_bits(value: object) -> bool:
    return type(value) is int and abs(value) < 2**63


def _found_or_made(db: Connection, table: Table, row: dict[str, Any], **key: Any) -> int:
    where = [table.c[name] == value for name, value in key.items()]
    found = db.scalar(select(table.c.id).where(*where))
    if found is None:
        # Generators belong to all projects, so another transaction may be making this one.
        dialect = sqlite if db.dialect.name == "sqlite" else postgresql
        db.execute(dialect.insert(table).values(**row, **key).on_conflict_do_nothing())
        found = db.scalar(select(table.c.id).where(*where))
    return cast("int", found)


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()
