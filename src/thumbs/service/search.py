"""Searching the caller's sessions."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.clients.tables import SessionRecord
from thumbs.service.requests import Body, answer, owner_of, read
from thumbs.service.state import Service

_AT_A_TIME = 200
_CLIENT_REASONS = ("success", "errored", "interrupted")


class _Owner(Body):
    type: str = "own"
    owner_urns: tuple[str, ...] = ()


class _Status(Body):
    type: str
    reasons: tuple[str, ...] | None = None


class _Cursor(Body):
    last_created_at: AwareDatetime
    last_session_id: str


class _Search(Body):
    session_id: str | None = None
    project_ids: tuple[str, ...] | None = None
    user_metadata: dict[str, str] = Field(default_factory=dict)
    display_name: str | None = None
    owner: _Owner = _Owner()
    statuses: tuple[_Status, ...] | None = None
    limit: int = Field(default=50, ge=1, le=200)
    cursor: _Cursor | None = None

    def fits(self, session: SessionRecord) -> bool:
        """Whether a session is among those that are asked for."""
        if self.session_id is not None or self.display_name is not None:
            words = None if self.display_name is None else self.display_name.lower().split()
            name = (session.display_name or "").lower()
            named = words is not None and all(word in name for word in words)
            if not named and session.id != self.session_id:
                return False
        known = self.user_metadata.items() <= session.user_metadata.items()
        projects = self.project_ids is None or session.project_id in self.project_ids
        states = self.statuses is None or any(_has(session, status) for status in self.statuses)
        return known and projects and states and not (self.cursor and _place(session) >= _after(self.cursor))


class SearchRoutes:
    """What RestClient.search_sessions calls."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._store = service.backend.store

    def routes(self) -> list[Route]:
        """The routes, below /api/v1."""
        return [Route("/sessions/search", self.search, methods=["POST"])]

    async def search(self, request: Request) -> Response:
        """A page of the caller's sessions, newest first; those of others are not listed, whatever is asked for."""
        body, owner = await read(request, _Search), owner_of(request)
        return answer(await self._service.threads.record(self._page, body, owner))

    def _page(self, body: _Search, owner: str) -> dict[str, Any]:
        found: list[SessionRecord] = []
        if body.owner.type != "user" or owner in body.owner.owner_urns:
            for session in self._newest(owner):
                if body.fits(session):
                    found.append(session)
                if len(found) > body.limit:
                    break
        page = found[: body.limit]
        last = page[-1] if len(found) > body.limit else None
        cursor = last and {"last_created_at": last.created.isoformat(), "last_session_id": last.id}
        return {"sessions": [self._summary(session) for session in page], "next_cursor": cursor}

    def _newest(self, owner: str) -> Iterator[SessionRecord]:
        offset, total = 0, 1
        while offset < total:
            sessions, total = self._store.sessions(owner, _AT_A_TIME, offset)
            yield from sessions
            offset += _AT_A_TIME

    def _summary(self, session: SessionRecord) -> dict[str, Any]:
        runs = self._store.runs_of(session.id)
        checkpoints = [checkpoint for run in runs for checkpoint in self._store.checkpoints_of(run.id)]
        return {
            "session_id": session.id,
            "created_at": session.created.isoformat(),
            "owner": session.owner,
            "project_id": session.project_id or "",
            "status": _status(session),
            "checkpoints_count": len(checkpoints),
            "display_name": session.display_name,
            "user_metadata": session.user_metadata,
            "checkpoint_storage_bytes": sum(checkpoint.size_bytes for checkpoint in checkpoints),
        }


def _status(session: SessionRecord) -> dict[str, Any] | None:
    """None of a session whose client did not say that it was done, and is gone."""
    if session.finished is None:
        return {"type": "active"}
    if session.reason in _CLIENT_REASONS:
        return {"type": "client_finished", "reason": {"type": session.reason}}
    return None


def _has(session: SessionRecord, wanted: _Status) -> bool:
    status = _status(session) or {}
    return status.get("type") == wanted.type and (wanted.reasons is None or session.reason in wanted.reasons)


def _place(session: SessionRecord) -> tuple[datetime, str]:
    return session.created, session.id


def _after(cursor: _Cursor) -> tuple[datetime, str]:
    return cursor.last_created_at, cursor.last_session_id
