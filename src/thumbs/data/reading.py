"""What holds while one row is read: the axis that was asked for, and what the readers have to say about the row.

A reader returns a record and raises RowError. What is neither, such as a key that nothing reads, it says here:

    with reading() as notes:
        row = read_preference(value)
    notes.ignored  # {"source", "messages[].name"}
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from thumbs.data.sources import Kind
from thumbs.records import Message


@dataclass
class Notes:
    """What the readers said about one row.

    axis: on which of several judgements of a row to go by, None if none was chosen. judged: whether the judgements
    matter; where people judge anew they do not, and no axis is needed. axis_used: whether the row had a choice of axes.
    ignored: paths of keys that were there and are
    not used ("source", "messages[].name"). remarks: what is worth a look but no fault, as (kind, text).
    """

    axis: str | None = None
    judged: bool = True
    axis_used: bool = False
    ignored: set[str] = field(default_factory=set)
    remarks: list[tuple[Kind, str]] = field(default_factory=list)


_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|apos|nbsp|#x?[0-9a-fA-F]{1,6});")
_NOTES: ContextVar[Notes | None] = ContextVar("notes", default=None)


@contextmanager
def reading(axis: str | None = None, *, judged: bool = True) -> Iterator[Notes]:
    """Notes of the readers that run inside the block, which should read one row."""
    notes = Notes(axis, judged)
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


def current() -> Notes:
    """Notes of the block around; empty ones that nobody sees if there is no block."""
    return _NOTES.get() or Notes()


def ignore(*paths: str) -> None:
    """Says that keys of the row are there and not used; a path names lists by [], as in "messages[].name"."""
    current().ignored.update(paths)


def remark(kind: Kind, text: str) -> None:
    """Says what is worth a look but no fault of the row; `kind` is one of sources.WARNINGS."""
    current().remarks.append((kind, text))


def ignore_unknown(value: Mapping[str, Any], known: frozenset[str] | set[str], path: str) -> None:
    """Says which keys of an object are none of the known ones; path: of the object, such as "judgements[]"."""
    ignore(*(f"{path}.{key}" for key in value if key not in known))


def note_oddities(messages: Sequence[Message], replies: Sequence[str]) -> None:
    """Remarks on two turns of one speaker in a row, and on text that was escaped for a web page."""
    for before, after in itertools.pairwise(messages):
        if before.role == after.role:
            remark("same_role_twice", f"two turns of the {after.role} in a row")
            break
    for text in (*(message.content for message in messages), *replies):
        if found := _ENTITY.search(text):
            remark("html_entities", f"the text holds {found.group()!r}, as if it were meant for a web page")
            break


def without_nulls(value: Any) -> Any:
    """The value without the keys, at any depth, whose value is null; elements of lists stay.

    Parquet and `datasets` give every object of a column all keys that any of them has, so null says "absent".
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value
