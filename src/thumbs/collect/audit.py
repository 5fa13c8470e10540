"""Who changed what: a log that is only added to, each line sealed with the one before it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, insert, select

from thumbs.collect.records import Event
from thumbs.collect.tables import EVENTS
from thumbs.data.sources import canonical_json
from thumbs.storage import Database

_TURN = -1
"""The lock under which lines are added, so that each knows the one before; projects have numbers from 1."""


class Audit:
    """The events of administration; judgements are their own record."""

    def __init__(self, db: Database, clock: Callable[[], datetime]) -> None:
        self._db, self._clock = db, clock

    def note(
        self, db: Connection, action: str, account_id: int | None, project_id: int | None, data: Mapping[str, Any]
    ) -> None:
        """Adds a line within the caller's transaction; `account_id` None is the command line."""
        if not self._db.is_sqlite:
            db.execute(select(func.pg_advisory_xact_lock(_TURN)))
        previous = db.scalar(select(EVENTS.c.digest).order_by(EVENTS.c.id.desc()).limit(1)) or ""
        line = {
            "at": self._clock(),
            "account_id": account_id,
            "project_id": project_id,
            "action": action,
            "data": dict(data),
        }
        db.execute(insert(EVENTS).values(**line, previous=previous, digest=_seal(previous, line)))

    def events(self, project_id: int | None = None, before: int | None = None, limit: int = 100) -> list[Event]:
        """Lines, newest first: of one project or of all, older than line `before`."""
        query = select(EVENTS).order_by(EVENTS.c.id.desc()).limit(limit)
        if project_id is not None:
            query = query.where(EVENTS.c.project_id == project_id)
        if before is not None:
            query = query.where(EVENTS.c.id < before)
        return self._db.all(Event, query)

    def broken(self) -> int | None:
        """The first line that is not as it was written, or whose forerunner is gone; None if all hold."""
        previous = ""
        with self._db.reading() as db:
            for row in db.execute(select(EVENTS).order_by(EVENTS.c.id).execution_options(yield_per=1000)):
                line = row._asdict()
                if line["previous"] != previous or line["digest"] != _seal(previous, line):
                    return line["id"]
                previous = line["digest"]
        return None


def _seal(previous: str, line: Mapping[str, Any]) -> str:
    told = [previous, line["at"].isoformat(), line["account_id"], line["project_id"], line["action"], line["data"]]
    return hashlib.sha256(canonical_json(told).encode("ascii")).hexdigest()
