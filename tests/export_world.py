"""Judgements made by hand, and projects made in bulk, for tests of exports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from collect_world import Clock, model, pair, person
from thumbs.collect.exports.select import Filters
from thumbs.collect.exports.write import export
from thumbs.collect.question import Axis, Question, shown_answer
from thumbs.collect.records import Answer, Effort, NewItem, Project
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import (
    ASSIGNMENTS,
    GENERATORS,
    ITEMS,
    JUDGEMENTS,
    PROMPTS,
    RESPONSES,
    SLOTS,
)
from thumbs.config.data import DataConfig
from thumbs.records import Message, Reply

HELPFUL = Axis(key="helpful", label="Helpful")
ASKED = Question(axes=(HELPFUL,), rewrite=True)


def first(strength: int = 2, **more: Any) -> Answer:
    return Answer("prefer", -strength, **more)


def second(strength: int = 2, **more: Any) -> Answer:
    return Answer("prefer", strength, **more)


TIE, BOTH_BAD, SKIP = Answer("tie"), Answer("both_bad"), Answer("skip", skip_reason="unclear")
OPINIONS: Mapping[str, tuple[Answer, ...]] = {
    "ann": (first(4, axes={"helpful": 2}), second(1), TIE, BOTH_BAD, SKIP),
    "ben": (first(1, axes={"helpful": 0}, reason="shorter"), first(3), TIE, BOTH_BAD, SKIP),
    "cem": (second(2), second(2), first(1), second(4, axes={"helpful": -1}), SKIP),
}
"""What three people say of five pairs, in the order of slots."""


def say(store: CollectStore, project: Project, handle: str, answers: Mapping[str, Answer], ms: int = 9000) -> None:
    """The person answers every item, by the name of its prompt."""
    account = person(store, handle)
    while not isinstance(task := store.work.claim(project.id, account), str):
        texts = [store.items.content(item.id) for item in store.items.page(project.id, limit=999)]
        replies = next([reply.text for reply in told] for asked, told in texts if asked == task.messages)
        answer = answers[task.messages[-1].content]
        body = shown_answer(answer, [replies.index(text) for text in task.replies])
        store.work.submit(task.assignment, account, f"key-{task.assignment}", body, Effort(ms, ms, "key"))


def judged_pairs(store: CollectStore, question: Question = ASKED, **more: Any) -> Project:
    project = store.projects.create(
        "work", "Work", question, guidelines="Be kind.", settings=ProjectSettings(overlap=3)
    )
    items = [pair(i, chosen_by={"policy": "random" if i % 2 else "uncertain"}, **more) for i in range(5)]
    store.items.add(project.id, items)
    for place, (handle, answers) in enumerate(OPINIONS.items(), start=1):
        say(store, project, handle, {f"question {i}": a for i, a in enumerate(answers)}, ms=1000 * place)
    return project


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(store: CollectStore, project: Project, folder: Path, name: str, **filters: Any) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    export(store, project.id, name, Filters(**filters), path)
    return lines(path)


def config(folder: Path, name: str) -> DataConfig:
    return DataConfig(path=str(folder / f"{name}.jsonl"), max_tokens=200, min_kept=1.0)


def ranking_project(store: CollectStore, **more: Any) -> Project:
    project = store.projects.create("rank", "Rank", Question(kind="rank", **more), settings=ProjectSettings(overlap=2))
    replies = tuple(Reply(text, model(text)) for text in ("one", "two", "three"))
    store.items.add(project.id, [NewItem((Message("user", "question 0"),), replies)])
    for handle, ranks in (("ann", (1, 2, 2)), ("ben", (2, 1, 3))):
        say(store, project, handle, {"question 0": Answer("rank", ranks=ranks)})
    return project


def fill(store: CollectStore, items: int, length: int) -> Project:
    """A project of so many judged pairs with replies of that length, written in bulk."""
    project = store.projects.create("many", "Many", Question())
    account = person(store, "ann")
    stamps = {
        "question_id": store.projects.question(project.id)[0].id,
        "guideline_id": store.projects.guidelines(project.id).id,
    }
    at = Clock()()
    maker = {"id": 1, "kind": "model", "name": "m", "checkpoint": "", "sampling": {}, "fingerprint": "f"}
    each: dict[Any, Any] = {
        GENERATORS: lambda i: [maker] if i == 1 else [],
        PROMPTS: lambda i: [
            {
                "id": i,
                "project_id": project.id,
                "messages": [["user", str(i)]],
                "digest": str(i),
                "name": "",
                "created": at,
            }
        ],
        RESPONSES: lambda i: [
            {
                "id": 2 * i + k,
                "prompt_id": i,
                "generator_id": 1,
                "text": str(k) * length,
                "stop_reason": "stop",
                "digest": f"{i}-{k}",
                "created": at,
            }
            for k in (0, 1)
        ],
        ITEMS: lambda i: [
            {
                "id": i,
                "project_id": project.id,
                "prompt_id": i,
                "question_id": stamps["question_id"],
                "key": str(i),
                "priority": 0.0,
                "target": 1,
                "n_live": 0,
                "n_done": 1,
                "n_skip": 0,
                "state": "done",
                "role": "work",
                "chosen_by": {},
                "created": at,
            }
        ],
        SLOTS: lambda i: [{"item_id": i, "slot": k, "response_id": 2 * i + k} for k in (0, 1)],
        ASSIGNMENTS: lambda i: [
            {
                "id": str(i),
                "item_id": i,
                "project_id": project.id,
                "account_id": account,
                **stamps,
                "state": "submitted",
                "display": [0, 1],
                "revision": 1,
                "leased": at,
                "expires": at,
            }
        ],
        JUDGEMENTS: lambda i: [
            {
                "assignment_id": str(i),
                "item_id": i,
                "project_id": project.id,
                "account_id": account,
                **stamps,
                "revision": 1,
                "key": f"key-{i}",
                "body_sha256": "",
                "verdict": "prefer",
                "strength": 1,
                "answer": {"verdict": "prefer", "strength": 1},
                "active_ms": 1,
                "wall_ms": 1,
                "input": "api",
                "late": False,
                "created": at,
            }
        ],
    }
    with store.db.transaction() as db:
        for table, make in each.items():
            db.execute(insert(table), [row for i in range(1, items + 1) for row in make(i)])
    return project
