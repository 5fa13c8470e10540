"""Start-up, sessions, a search among them, and telemetry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

from pydantic import AwareDatetime, Field
from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients.tables import SessionRecord
from thumbs.service.requests import Body, Metadata, NoFields, Text, answer, owner_of, read, version
from thumbs.service.state import Routes, Service, route

log = logging.getLogger(__name__)

_NO_ARCHIVE_SINCE = (0, 25)
"""From this SDK version on, weights are fetched file by file."""


_AT_A_TIME = 200
_CLIENT_REASONS = ("success", "errored", "interrupted")


class _Config(Body):
    sdk_version: str = ""


class _NewSession(Body):
    tags: Annotated[tuple[Text, ...], Field(max_length=256)] = ()
    user_metadata: Metadata | None = None
    sdk_version: Text = ""
    project_id: Text | None = None
    display_name: Text | None = None


class _Heartbeat(Body):
    session_id: str


class _Reason(Body):
    type: Text = "success"


class _Finish(Body):
    harmless = ("detail",)

    reason: _Reason = _Reason()


class _Owner(Body):
    type: str = "own"
    owner_urns: tuple[str, ...] = ()


class _Status(Body):
    type: str
    reasons: tuple[str, ...] | None = None


class _Cursor(Body):
    last_created_at: AwareDatetime
    last_session_id: str

    def comes_before(self, session: SessionRecord) -> bool:
        """Whether the session is older than the last one of the page before."""
        return (session.created, session.id) < (self.last_created_at, self.last_session_id)


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
        return known and projects and states and (self.cursor is None or self.cursor.comes_before(session))


class SessionRoutes(Routes):
    """What every client asks for before and while it works."""

    @route("POST", "/client/config")
    async def client_config(self, request: Request) -> Response:
        """Flags for this SDK version and this kind of key.

        MinT's clients accept their `sk-` keys only where the server exchanges them. An SDK with the archive call wants
        its redirect itself, which one of its two transports follows.
        """
        body = await read(request, _Config)
        return answer(
            {
                "pjwt_auth_enabled": request.headers.get("x-api-key", "").startswith("sk-"),
                "use_pyqwest_transport": version(body.sdk_version) >= _NO_ARCHIVE_SINCE,
                "proto_compress_fwdbwd": self._service.settings.compress,
            }
        )

    @route("POST", "/client/dynamic_config")
    async def dynamic_config(self, request: Request) -> Response:
        """Flags that a client asks for again now and then."""
        await read(request, _Config)
        return answer({"refresh_interval_sec": 300, "sample_cancel_enabled": True, "sample_cancel_max_batch_size": 64})

    @route("POST", "/auth/token")
    async def auth_token(self, request: Request) -> Response:
        """A short-lived credential for the key that came."""
        await read(request, NoFields)
        return answer({"jwt": self._service.callers.exchange(owner_of(request))})

    @route("POST", "/create_session")
    async def create_session(self, request: Request) -> Response:
        """A new session."""
        body = await read(request, _NewSession)
        session_id = await self._record(self._store.add_session, owner_of(request), **dict(body))
        return answer({"type": "create_session", "session_id": session_id})

    @route("POST", "/session_heartbeat")
    async def heartbeat(self, request: Request) -> Response:
        """Keeps a session alive; 410, on which a client stops, where it is over."""
        body = await read(request, _Heartbeat)
        record = await self._record(self._store.session, body.session_id, owner_of(request))
        if record.finished is not None:
            return answer({"detail": f"session {body.session_id} has ended"}, 410)
        await self._record(self._store.touch_session, body.session_id)
        return answer({"type": "session_heartbeat"})

    @route("POST", "/sessions/{session_id}/finish")
    async def finish(self, request: Request) -> Response:
        """Ends a session; the first reason is the one that is kept."""
        body = await read(request, _Finish)
        session_id = request.path_params["session_id"]
        record = await self._record(self._store.session, session_id, owner_of(request))
        if record.finished is None:
            await self._work(self._backend.end_session, session_id, body.reason.type)
        return answer({})

    @route("POST", "/telemetry")
    async def telemetry(self, request: Request) -> Response:
        """Takes what the SDKs report about themselves and drops it: a refusal would hold up every error of theirs."""
        return answer({"status": "accepted"})

    @route("GET", "/get_server_capabilities")
    async def capabilities(self, request: Request) -> Response:
        """The models that are served."""
        models = await self._work(self._backend.bases.supported)
        return answer({"supported_models": [model.model_dump(mode="json", exclude_none=True) for model in models]})

    @route("POST", "/sessions/search")
    async def search(self, request: Request) -> Response:
        """A page of the caller's sessions, newest first; those of others are not listed, whatever is asked for."""
        body, owner = await read(request, _Search), owner_of(request)
        return answer(await self._record(self._page, body, owner))

    def _page(self, body: _Search, owner: str) -> dict[str, Any]:
        mine = body.owner.type != "user" or owner in body.owner.owner_urns
        found = list(islice(filter(body.fits, self._newest(owner) if mine else ()), body.limit + 1))
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
        checkpoints = [checkpoint for run in runs for checkpoint in self._store.checkpoints.of_run(run.id)]
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


async def sweep(service: Service) -> None:
    """Ends sessions whose clients are gone and drops what has expired, until cancelled."""
    store, settings = service.backend.store, service.settings
    while True:
        await asyncio.sleep(settings.sweep_s)
        try:
            for session_id in await service.threads.record(store.stale_sessions, settings.session_timeout_s):
                log.info("session %s: no heartbeat for %.0f s, ended", session_id, settings.session_timeout_s)
                await service.threads.work(service.backend.end_session, session_id, "no heartbeat")
            await service.threads.record(store.claim.renew)
            await service.threads.record(store.sweep_futures, settings.promise_ttl_s)
            await service.threads.record(store.checkpoints.sweep)
        except Exception:
            log.exception("a sweep failed; the next one tries again")


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
