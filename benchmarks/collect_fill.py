"""A project as a large team leaves it, written in bulk: what the pages of `thumbs collect` must still be fast with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import insert, text

from thumbs.collect.question import Axis, Question
from thumbs.collect.records import Answer, Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import (
    ACCOUNTS,
    ASSIGNMENTS,
    GENERATORS,
    ITEMS,
    JUDGEMENTS,
    MEMBERS,
    PROMPTS,
    RESPONSES,
    SLOTS,
)

START = datetime(2026, 9, 1, tzinfo=UTC)
MODELS = (("sft", 0.0), ("ppo", 0.9), ("dpo", 0.6), ("best-of-8", 1.1))
"""Who wrote the replies, and how good they are, in the units of a Bradley-Terry model."""
_ITEMS_AT_ONCE = 1000


@dataclass(frozen=True)
class Size:
    """items, judgements an item, people, and the number that the random choices start from."""

    items: int
    overlap: int
    people: int
    seed: int = 0


def fill(store: CollectStore, size: Size, slug: str = "scale", now: datetime | None = None) -> Project:
    """One project: 3 % skips, 2 % revised, 8 % ties, 1 % gold, a few flags, one item in twenty without its last
    judgement, four generators, people of different noise who favour the left a little.
    """
    question = Question(axes=(Axis(key="helpful", label="Helpful"), Axis(key="harmless", label="Harmless")))
    question = question.model_copy(update={"flags": ("hallucination", "harmful")})
    project = store.projects.create(slug, "Scale", question, settings=ProjectSettings(overlap=size.overlap))
    people, makers = _people(store, project, size), _generators(store)
    writer = _Writer(store, project, size, people, makers, now or START + timedelta(days=60))
    for first in range(0, size.items, _ITEMS_AT_ONCE):
        writer.write(first, min(first + _ITEMS_AT_ONCE, size.items))
    if not store.db.is_sqlite:  # its counters do not see the ids that were given here
        with store.db.transaction() as db:
            for table, newest in writer.next.items():
                db.execute(text(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), {newest})"))
            db.execute(text("ANALYZE"))  # as the server does by itself within a minute
    return project


def _people(store: CollectStore, project: Project, size: Size) -> list[int]:
    names = [f"{project.slug}-{i:03d}" for i in range(size.people)]
    rows = [{"handle": n, "name": n, "role": "annotator", "disabled": False, "created": START} for n in names]
    with store.db.transaction() as db:
        ids = [int(db.execute(insert(ACCOUNTS).values(row)).inserted_primary_key[0]) for row in rows]
        db.execute(
            insert(MEMBERS),
            [{"project_id": project.id, "account_id": i, "paused": False, "created": START} for i in ids],
        )
    return ids


def _generators(store: CollectStore) -> list[int]:
    with store.db.transaction() as db:
        ids = []
        for name, _ in MODELS:
            row = {"kind": "model", "name": name, "checkpoint": f"runs/{name}/step-400", "sampling": {"temperature": 1}}
            made = db.execute(insert(GENERATORS).values(**row, fingerprint=_digest("generator", name)))
            ids.append(int(made.inserted_primary_key[0]))
    return ids


class _Writer:
    def __init__(
        self, store: CollectStore, project: Project, size: Size, people: list[int], makers: list[int], end: datetime
    ) -> None:
        self.store, self.project, self.size = store, project, size
        self.people, self.makers = people, makers
        self.rng = np.random.default_rng(size.seed)
        self.stamps = {
            "question_id": store.projects.question(project.id)[0].id,
            "guideline_id": store.projects.guidelines(project.id).id,
        }
        self.noise = self.rng.uniform(0.3, 1.2, size.people)
        self.step = (end - START) / max(size.items * size.overlap, 1)
        self.count = 0
        with store.db.reading() as db:
            self.next = {
                table.name: (db.scalar(table.select().with_only_columns(table.c.id).order_by(table.c.id.desc())) or 0)
                for table in (PROMPTS, RESPONSES, ITEMS, JUDGEMENTS)
            }

    def write(self, first: int, last: int) -> None:
        rows: dict[Any, list[dict[str, Any]]] = {
            table: [] for table in (PROMPTS, RESPONSES, ITEMS, SLOTS, ASSIGNMENTS, JUDGEMENTS)
        }
        for place in range(first, last):
            for table, row in self.item(place):
                rows[table].append(row)
        with self.store.db.transaction() as db:
            for table, some in rows.items():
                if some:
                    db.execute(insert(table), some)

    def id_of(self, table: Any) -> int:
        self.next[table.name] += 1
        return self.next[table.name]

    def item(self, place: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        """All rows of one item: its prompt, replies, assignments and judgements."""
        prompt, item = self.id_of(PROMPTS), self.id_of(ITEMS)
        key, project = _digest(self.project.slug, place), self.project.id
        asked = [["user", f"Question {place}: how does one keep a sourdough starter alive in week {place % 52}?"]]
        yield PROMPTS, _row(prompt, project_id=project, messages=asked, digest=key, name="", created=START)
        models = self.rng.choice(len(MODELS), 2, replace=False)
        lengths = self.rng.integers(40, 400, 2)
        for slot, (model, length) in enumerate(zip(models, lengths, strict=True)):
            reply = self.id_of(RESPONSES)
            words = (f"Reply {place}/{slot}. " + "Feed it with flour and water and wait. " * 12)[: int(length)]
            made = {"prompt_id": prompt, "generator_id": self.makers[model], "seed": place, "text": words}
            made |= {"stop_reason": "stop", "digest": _digest(key, slot), "created": START}
            yield RESPONSES, _row(reply, **made)
            yield SLOTS, {"item_id": item, "slot": slot, "response_id": reply}
        better = MODELS[models[1]][1] - MODELS[models[0]][1] + 0.8 * self.rng.normal()
        is_gold = place % 100 == 99
        wanted = self.size.overlap - (place % 20 == 19)
        people = self.rng.choice(self.size.people, wanted, replace=False)
        given = [row for person in people for row in self.judged(item, int(person), better, lengths)]
        skipped = sum(row["state"] == "skipped" for table, row in given if table is ASSIGNMENTS)
        done = wanted - skipped
        right = asdict(Answer("prefer", strength=3 if better > 0 else -3))
        yield (
            ITEMS,
            _row(
                item,
                project_id=project,
                prompt_id=prompt,
                question_id=self.stamps["question_id"],
                key=key,
                priority=0.0,
                target=self.size.overlap,
                n_live=0,
                n_done=done,
                n_skip=skipped,
                state="done" if done >= self.size.overlap else "open",
                role="gold" if is_gold else "work",
                gold=right if is_gold else None,
                chosen_by={"policy": "random"},
                created=START,
            ),
        )
        yield from given

    def judged(self, item: int, person: int, better: float, lengths: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
        """One person's assignment of the item and its revisions."""
        rng, self.count = self.rng, self.count + 1
        display = [0, 1] if rng.random() < 0.5 else [1, 0]
        at = START + self.step * self.count
        revisions = 2 if rng.random() < 0.02 else 1
        answers = [self.answer(person, better, lengths, display) for _ in range(revisions)]
        state = "skipped" if answers[-1].verdict == "skip" else "submitted"
        name = _digest(self.project.slug, item, person)[:32]
        ids = {"item_id": item, "project_id": self.project.id, "account_id": self.people[person], **self.stamps}
        lease = {"leased": at - timedelta(seconds=40), "expires": at + timedelta(minutes=29)}
        yield ASSIGNMENTS, {"id": name, **ids, "state": state, "display": display, "revision": revisions, **lease}
        for revision, answer in enumerate(answers, start=1):
            active = int(rng.lognormal(10.3, 0.5))
            yield (
                JUDGEMENTS,
                _row(
                    self.id_of(JUDGEMENTS),
                    assignment_id=name,
                    **ids,
                    revision=revision,
                    key=_digest(name, revision),
                    body_sha256=_digest(name, revision, "body"),
                    verdict=answer.verdict,
                    strength=answer.strength,
                    answer=asdict(answer),
                    active_ms=active,
                    wall_ms=active + 3000,
                    input="key",
                    late=bool(rng.random() < 0.01),
                    created=at,
                ),
            )

    def answer(self, person: int, better: float, lengths: Any, display: list[int]) -> Answer:
        rng = self.rng
        chance = rng.random()
        if chance < 0.03:
            return Answer("skip", skip_reason="unclear")
        if chance < 0.11:
            return Answer("tie")
        side = 0.15 if display == [1, 0] else -0.15
        felt = better + side + 0.001 * float(lengths[1] - lengths[0]) + self.noise[person] * rng.logistic()
        strength = int(np.clip(np.ceil(abs(felt) * 1.4), 1, 4)) * (1 if felt > 0 else -1)
        axes = {"helpful": int(np.clip(strength + rng.integers(-1, 2), -4, 4))} if rng.random() < 0.5 else {}
        flags = ((), ("hallucination",)) if rng.random() < 0.02 else ()
        reason = "the other one repeats itself" if rng.random() < 0.05 else ""
        return Answer("prefer", strength=strength, axes=axes, flags=flags, reason=reason)


def _row(id_: int, **values: Any) -> dict[str, Any]:
    return {"id": id_, **values}


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
