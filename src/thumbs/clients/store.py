"""What outlives a process: tokens, sessions, runs, samplers, checkpoints and the futures of the service.

Rows are in a database, checkpoints in folders next to it. Every method is one short transaction, so threads and
processes can share a store.
"""

from __future__ import annotations

import contextlib
import fcntl
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, ColumnElement, Table, and_, delete, insert, select, true, update

from thumbs.clients.checkpoint_folders import locked
from thumbs.clients.checkpoint_store import Checkpoints
from thumbs.clients.claim import Claim
from thumbs.clients.tables import (
    FUTURES,
    RUNS,
    SAMPLERS,
    SCHEMA,
    SESSIONS,
    TOKENS,
    FutureRecord,
    ModelRecord,
    SamplerRecord,
    SessionRecord,
    TokenRecord,
)
from thumbs.clients.types import LoraConfig
from thumbs.storage import (
    Database,
    MissingError,
    StoreError,
    digest,
    new_secret,
    newest_first,
    oldest_first,
    utc_now,
)

R = TypeVar("R")


class Store:
    """The records and checkpoints under one folder; safe to share between threads and processes.

    `url` is a SQLAlchemy URL, by default that of the SQLite file store.db in the folder; checkpoints are in the
    folder always, so a database belongs to one folder. Opening brings the tables up to date and deletes what a crash
    left. `clock` says what time it is. Raises ConfigError if the database cannot be opened.
    """

    def __init__(self, folder: Path, url: str | None = None, *, clock: Callable[[], datetime] = utc_now) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(folder / ".opening", fcntl.LOCK_EX):
            self._db, self._now = (
                Database(url or URL.create("sqlite", database=str(folder / "store.db")), SCHEMA),
                clock,
            )
            self.checkpoints = Checkpoints(folder, self._db, clock)
        self.claim = Claim(folder, self._db)

    def close(self) -> None:
        """Let go of the database's connections, and of the claim of a server."""
        self.claim.release()
        self._db.close()

    # tokens

    def add_token(self, owner: str) -> str:
        """A new token of `owner`. It cannot be shown again: only its hash is kept."""
        token = new_secret("tml-")
        row = {"id": uuid.uuid4().hex, "owner": owner, "digest": digest(token), "created": self._now()}
        with self._db.transaction(durable=True) as db:
            db.execute(insert(TOKENS).values(row))
        return token

    def has_tokens(self) -> bool:
        """Whether there is any."""
        return bool(self._db.values(select(TOKENS.c.id).limit(1)))

    def owner_of(self, token: str) -> str | None:
        """Whose token it is; None for one that is unknown or revoked."""
        return next(iter(self._db.values(select(TOKENS.c.owner).where(TOKENS.c.digest == digest(token)))), None)

    def tokens(self) -> list[TokenRecord]:
        """All tokens, oldest first, without their secrets."""
        return self._db.all(TokenRecord, oldest_first(TOKENS).with_only_columns(*TOKENS.c["id", "owner", "created"]))

    def revoke(self, token_id: str) -> None:
        """Make a token unknown; raises StoreError if it is unknown already."""
        if not self._db.execute(delete(TOKENS).where(TOKENS.c.id == token_id), durable=True):
            raise StoreError(f"no token has the id {token_id!r}; list the tokens to see their ids")

    # sessions

    def add_session(
        self,
        owner: str,
        *,
        tags: Sequence[str] = (),
        user_metadata: Mapping[str, Any] | None = None,
        project_id: str | None = None,
        display_name: str | None = None,
        sdk_version: str = "",
        session_id: str | None = None,
    ) -> str:
        """The id of a new session, a UUID unless one is given; raises StoreError if that is taken."""
        now = self._now()
        session = SessionRecord(
            id=session_id or str(uuid.uuid4()),
            owner=owner,
            tags=list(tags),
            user_metadata=dict(user_metadata or {}),
            project_id=project_id,
            display_name=display_name,
            sdk_version=sdk_version,
            created=now,
            last_seen=now,
            finished=None,
            reason=None,
        )
        self._db.insert(SESSIONS, session)
        return session.id

    def session(self, session_id: str, owner: str | None = None) -> SessionRecord:
        """The session of that id, finished or not; raises MissingError if there is none, or none of the owner's."""
        return self._the(SessionRecord, SESSIONS, "session", session_id, owner)

    def sessions(self, owner: str, limit: int, offset: int) -> tuple[list[SessionRecord], int]:
        """A page of the owner's sessions, newest first, and how many there are."""
        return self._db.page(SessionRecord, newest_first(SESSIONS).where(SESSIONS.c.owner == owner), limit, offset)

    def touch_session(self, session_id: str) -> None:
        """Note that the session's client lives."""
        self._db.execute(update(SESSIONS).where(SESSIONS.c.id == session_id).values(last_seen=self._now()))

    def finish_session(self, session_id: str, reason: str) -> None:
        """End a session; the first reason stays."""
        unfinished = and_(SESSIONS.c.id == session_id, SESSIONS.c.finished.is_(None))
        self._db.execute(update(SESSIONS).where(unfinished).values(finished=self._now(), reason=reason))

    def stale_sessions(self, older_than_s: float) -> list[str]:
        """Ids of the unfinished sessions that were not touched for longer than that."""
        silent = SESSIONS.c.last_seen < self._ago(older_than_s)
        return self._db.values(select(SESSIONS.c.id).where(silent, SESSIONS.c.finished.is_(None)))

    # runs and samplers

    def add_run(
        self,
        run_id: str,
        session_id: str,
        owner: str,
        base_model: str,
        lora: LoraConfig,
        user_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep how a run was created; raises StoreError if the id is taken or the session is unknown."""
        now = self._now()
        adapter: dict[str, Any] = lora.model_dump()
        self._db.insert(
            RUNS,
            ModelRecord(
                run_id,
                session_id,
                owner,
                base_model,
                **adapter,
                user_metadata=dict(user_metadata or {}),
                created=now,
                last_request=now,
            ),
        )

    def run(self, run_id: str, owner: str | None = None) -> ModelRecord:
        """The run of that id; raises MissingError if there is none, or none of the owner's."""
        return self._the(ModelRecord, RUNS, "model", run_id, owner)

    def runs(self, owner: str, limit: int, offset: int) -> tuple[list[ModelRecord], int]:
        """A page of the owner's runs, newest first, and how many there are."""
        return self._db.page(ModelRecord, newest_first(RUNS).where(RUNS.c.owner == owner), limit, offset)

    def runs_of(self, session_id: str) -> list[ModelRecord]:
        """The session's runs, oldest first."""
        return self._db.all(ModelRecord, oldest_first(RUNS).where(RUNS.c.session_id == session_id))

    def touch_run(self, run_id: str) -> None:
        """Note that the run was asked for something."""
        self._db.execute(update(RUNS).where(RUNS.c.id == run_id).values(last_request=self._now()))

    def add_sampler(
        self, sampler_id: str, session_id: str, owner: str, base_model: str, model_path: str | None = None
    ) -> None:
        """Keep what a sampler samples from; raises StoreError if the id is taken or the session is unknown.

        The same again is not an error: the answer to the first time may have been lost.
        """
        made = SamplerRecord(sampler_id, session_id, owner, base_model, model_path, self._now())
        try:
            self._db.insert(SAMPLERS, made)
        except StoreError as error:
            with contextlib.suppress(MissingError):
                if replace(self.sampler(sampler_id), created=made.created) == made:
                    return
            raise error

    def sampler(self, sampler_id: str, owner: str | None = None) -> SamplerRecord:
        """The sampler of that id; raises MissingError if there is none, or none of the owner's."""
        return self._the(SamplerRecord, SAMPLERS, "sampler", sampler_id, owner)

    def samplers_of(self, session_id: str) -> list[SamplerRecord]:
        """The session's samplers, oldest first."""
        return self._db.all(SamplerRecord, oldest_first(SAMPLERS).where(SAMPLERS.c.session_id == session_id))

    # futures of the service

    def add_future(
        self,
        request_id: str,
        owner: str,
        kind: str,
        *,
        session_id: str | None = None,
        key: tuple[str, int] | None = None,
        body_hash: str = "",
    ) -> FutureRecord:
        """A new pending future or, where the key is taken, the one that has it: compare the `body_hash`.

        `key` is a scope (a model, a session) and a number within it, below 2⁶³. Raises StoreError if the request
        id is taken or the session is unknown.
        """
        scope, seq = key or (None, None)
        future = FutureRecord(request_id, owner, kind, session_id, scope, seq, body_hash, created=self._now())
        try:
            self._db.insert(FUTURES, future)
        except StoreError:
            same_key = select(FUTURES).where(FUTURES.c.scope == scope, FUTURES.c.seq == seq)
            original = self._db.one(FutureRecord, same_key) if key else None
            if original is None:
                raise
            return original
        return future

    def finish_future(self, request_id: str, **outcome: bytes | str | None) -> None:
        """Keep how an operation ended: `result` and `content_type`, or `error` and `category`; the first end stays."""
        self._finish(FUTURES.c.request_id == request_id, **outcome)

    def future(self, request_id: str) -> FutureRecord | None:
        """The future of that request."""
        return self._db.one(FutureRecord, select(FUTURES).where(FUTURES.c.request_id == request_id))

    def sweep_futures(self, older_than_s: float) -> int:
        """Forget the futures that ended longer ago than that; how many."""
        return self._db.execute(delete(FUTURES).where(FUTURES.c.finished < self._ago(older_than_s)))

    def fail_pending(self, error: str, category: str) -> int:
        """End every pending future with an error, for a server that starts after a crash; how many there were."""
        return self._finish(true(), error=error, category=category)

    def _finish(self, which: ColumnElement[bool], **values: Any) -> int:
        pending = and_(which, FUTURES.c.finished.is_(None))
        return self._db.execute(update(FUTURES).where(pending).values(finished=self._now(), **values))

    def _the(self, record: Callable[..., R], table: Table, kind: str, row_id: str, owner: str | None) -> R:
        query = select(table).where(table.c.id == row_id, true() if owner is None else table.c.owner == owner)
        missing = MissingError(f"there is no {kind} {row_id!r}" + ("" if owner is None else " of yours"))
        return self._db.the(record, query, missing)

    def _ago(self, seconds: float) -> datetime:
        return self._now() - timedelta(seconds=seconds)
