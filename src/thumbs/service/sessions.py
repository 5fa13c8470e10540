"""Start-up, sessions and telemetry."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.service.requests import Body, Metadata, Text, answer, owner_of, page, read, version
from thumbs.service.state import Service

log = logging.getLogger(__name__)

_NO_ARCHIVE_SINCE = (0, 25)
"""From this SDK version on, weights are fetched file by file."""


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


class _Nothing(Body):
    """No field at all."""


class _Finish(Body):
    harmless = ("detail",)

    reason: _Reason = _Reason()


class SessionRoutes:
    """What every client asks for before and while it works."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, below /api/v1."""
        return [
            Route("/client/config", self.client_config, methods=["POST"]),
            Route("/client/dynamic_config", self.dynamic_config, methods=["POST"]),
            Route("/auth/token", self.auth_token, methods=["POST"]),
            Route("/create_session", self.create_session, methods=["POST"]),
            Route("/session_heartbeat", self.heartbeat, methods=["POST"]),
            Route("/sessions/{session_id}/finish", self.finish, methods=["POST"]),
            Route("/sessions/{session_id}", self.session, methods=["GET"]),
            Route("/sessions", self.sessions, methods=["GET"]),
            Route("/telemetry", self.telemetry, methods=["POST"]),
            Route("/get_server_capabilities", self.capabilities, methods=["GET"]),
        ]

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

    async def dynamic_config(self, request: Request) -> Response:
        """Flags that a client asks for again now and then."""
        await read(request, _Config)
        return answer({"refresh_interval_sec": 300, "sample_cancel_enabled": True, "sample_cancel_max_batch_size": 64})

    async def auth_token(self, request: Request) -> Response:
        """A short-lived credential for the key that came."""
        await read(request, _Nothing)
        return answer({"jwt": self._service.callers.exchange(owner_of(request))})

    async def create_session(self, request: Request) -> Response:
        """A new session."""
        body = await read(request, _NewSession)
        session_id = await self._service.threads.record(
            self._service.backend.store.add_session,
            owner_of(request),
            tags=body.tags,
            user_metadata=body.user_metadata,
            project_id=body.project_id,
            display_name=body.display_name,
            sdk_version=body.sdk_version,
        )
        return answer({"type": "create_session", "session_id": session_id})

    async def heartbeat(self, request: Request) -> Response:
        """Keeps a session alive; 410, on which a client stops, where it is over."""
        body = await read(request, _Heartbeat)
        record = await self._service.session(body.session_id, owner_of(request))
        if record.finished is not None:
            return answer({"detail": f"session {body.session_id} has ended"}, 410)
        await self._service.threads.record(self._service.backend.store.touch_session, body.session_id)
        return answer({"type": "session_heartbeat"})

    async def finish(self, request: Request) -> Response:
        """Ends a session; the first reason is the one that is kept."""
        body = await read(request, _Finish)
        session_id = request.path_params["session_id"]
        record = await self._service.session(session_id, owner_of(request))
        if record.finished is None:
            await self._service.end_session(session_id, body.reason.type)
        return answer({})

    async def session(self, request: Request) -> Response:
        """The runs and samplers of a session."""
        store = self._service.backend.store
        record = await self._service.session(request.path_params["session_id"], owner_of(request))
        runs = await self._service.threads.record(store.runs_of, record.id)
        samplers = await self._service.threads.record(store.samplers_of, record.id)
        return answer(
            {
                "training_run_ids": [run.id for run in runs],
                "sampler_ids": [sampler.id for sampler in samplers],
                "user_metadata": record.user_metadata,
                "display_name": record.display_name,
            }
        )

    async def sessions(self, request: Request) -> Response:
        """The ids of the caller's sessions, newest first."""
        limit, offset = page(request)
        records, _ = await self._service.threads.record(
            self._service.backend.store.sessions, owner_of(request), limit, offset
        )
        return answer({"sessions": [record.id for record in records]})

    async def telemetry(self, request: Request) -> Response:
        """Takes what the SDKs report about themselves and drops it: a refusal would hold up every error of theirs."""
        return answer({"status": "accepted"})

    async def capabilities(self, request: Request) -> Response:
        """The models that are served."""
        models = await self._service.threads.work(self._service.backend.supported_models)
        return answer({"supported_models": [model.model_dump(mode="json", exclude_none=True) for model in models]})


async def sweep(service: Service) -> None:
    """Ends sessions whose clients are gone and drops what has expired, until cancelled."""
    store, settings = service.backend.store, service.settings
    while True:
        await asyncio.sleep(settings.sweep_s)
        try:
            for session_id in await service.threads.record(store.stale_sessions, settings.session_timeout_s):
                log.info("session %s: no heartbeat for %.0f s, ended", session_id, settings.session_timeout_s)
                await service.end_session(session_id, "no heartbeat")
            await service.threads.record(store.claim.renew)
            await service.threads.record(store.sweep_futures, settings.promise_ttl_s)
            await service.threads.record(store.sweep_expired)
        except Exception:
            log.exception("a sweep failed; the next one tries again")
