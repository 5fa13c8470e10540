"""Items, people and a clock for tests of `thumbs collect`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from thumbs.collect.question import Question
from thumbs.collect.records import NewItem, Project, Role, Task
from thumbs.collect.settings import ProjectSettings
from thumbs.collect.store import CollectStore
from thumbs.records import Generator, Message, Reply

ON_SQLITE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""For what does not depend on the database; the rest runs on both."""


class Clock:
    """A time that stands until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def model(name: str, seed: int | None = None) -> Generator:
    """A policy that writes replies."""
    return Generator("model", name, f"{name}/model", {"temperature": 0.7, "max_new_tokens": 40}, seed)


def pair(number: int, **more: Any) -> NewItem:
    """A pair of replies that both name its number; the first is by `alpha`, the second by `beta`."""
    replies = tuple(
        Reply(f"{word} reply {number}", model(name, number)) for word, name in (("first", "alpha"), ("second", "beta"))
    )
    return NewItem((Message("user", f"question {number}"),), replies, name=str(number), **more)


def project_of_pairs(store: CollectStore, pairs: int, slug: str = "work", **settings: Any) -> Project:
    """An open project with so many pairs."""
    made = store.projects.create(slug, "The work", Question(kind="pair"), settings=ProjectSettings(**settings))
    assert store.items.add(made.id, [pair(i) for i in range(pairs)]).created == pairs
    return made


def person(store: CollectStore, handle: str, role: Role = "annotator") -> int:
    """The id of a new account."""
    return store.people.add(handle, handle.title(), role).id


def first_is_better(task: Task, strength: int = 2) -> dict[str, Any]:
    """The answer that the reply of the first slot is better, wherever it is shown."""
    shown_first = task.replies[0].startswith("first")
    return {"verdict": "prefer", "strength": -strength if shown_first else strength}
