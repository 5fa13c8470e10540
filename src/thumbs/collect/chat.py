"""Conversations with the live policy: each turn offers two replies, and the chosen one goes on."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, update

from thumbs.collect.errors import CollectError, NotFound
from thumbs.collect.items import Items
from thumbs.collect.projects import Projects
from thumbs.collect.records import NewItem, Task
from thumbs.collect.screening import Hidden, hidden_of
from thumbs.collect.tables import ASSIGNMENTS, CONVERSATIONS, ITEMS
from thumbs.collect.votes import Votes
from thumbs.collect.work import Tasks
from thumbs.records import Message, Reply
from thumbs.storage import Database

Write = Callable[[Sequence[Message], int, int], list[Reply]]
"""write(messages, n, seed): n replies of the live policy."""

MOST_TURNS = 50
_TRIES = 3


class Chat:
    """A conversation belongs to the person who began it."""

    def __init__(
        self,
        db: Database,
        projects: Projects,
        items: Items,
        work: Tasks,
        votes: Votes,
        clock: Callable[[], datetime],
    ) -> None:
        self._db, self._projects, self._items, self._work = db, projects, items, work
        self._votes, self._clock = votes, clock

    def start(self, project_id: int, account_id: int, goal: str = "") -> str:
        """The id of a new conversation; one that was open ends. Raises CollectError if the project has none, Closed
        if it is not open to the person.
        """
        self._work.access(project_id, account_id).check()
        if self._projects.question(project_id)[1].kind != "chat":
            raise CollectError("this project has no conversations")
        conversation = secrets.token_urlsafe(18)
        mine = (CONVERSATIONS.c.project_id == project_id, CONVERSATIONS.c.account_id == account_id)
        row = {"id": conversation, "project_id": project_id, "account_id": account_id, "goal": goal[:2000]}
        with self._db.transaction(durable=True, turn=project_id) as db:
            db.execute(update(CONVERSATIONS).where(*mine).values(state="ended"))
            db.execute(insert(CONVERSATIONS).values(**row, state="open", created=self._clock()))
        return conversation

    def current(self, project_id: int, account_id: int) -> str | None:
        """The person's open conversation."""
        mine = (CONVERSATIONS.c.project_id == project_id, CONVERSATIONS.c.account_id == account_id)
        found = self._db.values(select(CONVERSATIONS.c.id).where(*mine, CONVERSATIONS.c.state == "open"))
        return found[0] if found else None

    def messages(self, conversation: str, account_id: int) -> tuple[Message, ...]:
        """What was said so far: the chosen reply of each turn; of equal ones that which was shown first."""
        self._own(conversation, account_id)
        last = self._last_turn(conversation)
        if last is None:
            return ()
        messages, replies = self._items.content(last.item_id)
        said = self._votes.revisions(last.assignment)[: last.revision]
        if not said:
            return messages
        strength = said[-1].as_given.strength  # what was chosen goes on, even if a better reply was not asked for
        slot = last.display[0] if not strength else int(strength > 0)
        return (*messages, Message("assistant", replies[slot].text))

    def hidden(self, conversation: str, account_id: int) -> Hidden:
        """What filters hide of what was said so far."""
        self._own(conversation, account_id)
        last = self._last_turn(conversation)
        return {} if last is None else hidden_of(self._items.text(last.item_id))

    def say(self, conversation: str, account_id: int, text: str, write: Write) -> Task:
        """The task of choosing between two replies to `text`.

        Raises CollectError if the last two are not judged yet, the conversation is over, or the policy gives one
        reply only; Closed if the project is not open to the person.
        """
        row = self._own(conversation, account_id)
        self._work.access(row.project_id, account_id).check()
        if row.state != "open":
            raise CollectError("this conversation is over; begin a new one")
        if not text.strip() or len(text) > 20_000 or "\0" in text:
            raise CollectError("a message has 1 to 20000 characters")
        so_far = self.messages(conversation, account_id)
        if so_far and so_far[-1].role == "user":
            raise CollectError("choose between the two replies first")
        turn = sum(message.role == "user" for message in so_far) + 1
        if turn > MOST_TURNS:
            raise CollectError(f"a conversation has at most {MOST_TURNS} turns; begin a new one")
        messages = (*so_far, Message("user", text))
        replies = _two_replies(write, messages, int(row.id.encode().hex()[:8], 16) * 1000 + turn * 10)
        item = NewItem(
            messages,
            replies,
            target=1,
            conversation=conversation,
            chosen_by={"policy": "live", "turn": turn, "goal": row.goal},
        )
        added = self._items.add(row.project_id, [item], by=account_id)
        if not added.ids:
            raise CollectError(f"the turn cannot be judged: {added.refused[0][1]}")
        return self._work.assign(added.ids[0], row.project_id, account_id)

    def project_of(self, conversation: str, account_id: int) -> int:
        """The project of the person's own conversation; raises NotFound."""
        return self._own(conversation, account_id).project_id

    def end(self, conversation: str, account_id: int, success: int | None = None) -> None:
        """Ends it; `success`, 0 to 4, says how far a red-team goal was reached."""
        if success is not None and not 0 <= success <= 4:
            raise CollectError(f"success is a number from 0 (not at all) to 4 (fully), got {success}")
        row = self._own(conversation, account_id)
        with self._db.transaction(durable=True, turn=row.project_id) as db:
            mine = CONVERSATIONS.c.id == conversation
            db.execute(update(CONVERSATIONS).where(mine).values(state="ended", success=success))

    def _own(self, conversation: str, account_id: int) -> Row[Any]:
        mine = (CONVERSATIONS.c.id == conversation, CONVERSATIONS.c.account_id == account_id)
        with self._db.reading() as db:
            row = db.execute(select(CONVERSATIONS).where(*mine)).first()
        if row is None:
            raise NotFound("there is no such conversation of yours")
        return row

    def _last_turn(self, conversation: str) -> Any:
        """Its newest item with its assignment; None before the first turn."""
        query = (
            select(*ASSIGNMENTS.c["item_id", "display", "revision"], ASSIGNMENTS.c.id.label("assignment"))
            .select_from(ITEMS)
            .join(ASSIGNMENTS, ASSIGNMENTS.c.item_id == ITEMS.c.id)
            .where(ITEMS.c.conversation_id == conversation)
            .order_by(ITEMS.c.id.desc())
            .limit(1)
        )
        with self._db.reading() as db:
            return db.execute(query).first()


def _two_replies(write: Write, messages: Sequence[Message], seed: int) -> tuple[Reply, ...]:
    """Two that differ; a sharp policy may need other seeds."""
    found: dict[str, Reply] = {}
    for attempt in range(_TRIES):
        for reply in write(messages, 2, seed + attempt):
            if reply.text.strip():
                found.setdefault(reply.text.strip(), reply)
        if len(found) >= 2:
            return tuple(found.values())[:2]
    raise CollectError("the model gives one and the same reply; raise its temperature")
