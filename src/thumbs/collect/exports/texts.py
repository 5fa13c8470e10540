"""The texts of many items at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from thumbs.collect.items import read_messages, read_reply
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import GENERATORS, ITEMS, PROMPTS, RESPONSES, SLOTS
from thumbs.records import Message, Reply

AT_ONCE = 200
"""Items whose texts are in memory at a time."""


@dataclass(frozen=True)
class Texts:
    """What an item puts before people, replies in the order of its slots."""

    item: int
    name: str
    conversation: str | None
    chosen_by: Mapping[str, Any]
    messages: tuple[Message, ...]
    replies: tuple[Reply, ...]


def read_texts(store: CollectStore, items: Sequence[int]) -> dict[int, Texts]:
    """The texts of these items; two queries, however many they are."""
    held = (
        select(*ITEMS.c["id", "conversation_id", "chosen_by"], *PROMPTS.c["messages", "name"])
        .join(PROMPTS, PROMPTS.c.id == ITEMS.c.prompt_id)
        .where(ITEMS.c.id.in_(items))
    )
    written = (
        select(SLOTS.c.item_id, RESPONSES, *GENERATORS.c["kind", "name", "checkpoint", "sampling"])
        .join(RESPONSES, RESPONSES.c.id == SLOTS.c.response_id)
        .join(GENERATORS, GENERATORS.c.id == RESPONSES.c.generator_id)
        .where(SLOTS.c.item_id.in_(items))
        .order_by(SLOTS.c.item_id, SLOTS.c.slot)
    )
    with store.db.reading() as db:
        replies: dict[int, list[Reply]] = defaultdict(list)
        for row in db.execute(written):
            replies[row.item_id].append(read_reply(row))
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
