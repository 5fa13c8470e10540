"""The training service as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from thumbs.clients.backend import Backend
from thumbs.clients.database import is_away
from thumbs.errors import CheckpointError, ThumbsError
from thumbs.service.absent import AbsentRoutes
from thumbs.service.auth import Authentication, Callers, Signer
from thumbs.service.copies import CopyRoutes
from thumbs.service.downloads import DownloadRoutes
from thumbs.service.hub import HubRoutes
from thumbs.service.mint import MintRoutes
from thumbs.service.models import ModelRoutes
from thumbs.service.openai import PREFIXES, OpenAIRoutes
from thumbs.service.promises import LOST, LOST_ERROR, Promises
from thumbs.service.requests import answer
from thumbs.service.rest import RestRoutes
from thumbs.service.retrieval import RetrievalRoutes
from thumbs.service.sampling import SamplingRoutes
from thumbs.service.search import SearchRoutes
from thumbs.service.sessions import SessionRoutes, sweep
from thumbs.service.state import Service, Settings
from thumbs.service.status import Meter, Observation, StatusRoutes
from thumbs.service.threads import Threads
from thumbs.service.training import TrainingRoutes
from thumbs.service.uploads import UploadRoutes
from thumbs.web.guards import BodyLimit, SameOrigin

log = logging.getLogger(__name__)

API = "/api/v1"
_UPLOAD = f"{API}/checkpoints/upload"
_PAUSE_S = 1.0


def create_app(backend: Backend, key: bytes, *, needs_token: bool, settings: Settings | None = None) -> Starlette:
    """The application. `key` signs links and credentials; without `needs_token` all callers are one.

    The backend and its store are the caller's to close, after the application has ended.
    """
    settings = settings or Settings()
    threads, signer = Threads(), Signer(key)
    service = Service(
        backend=backend,
        settings=settings,
        threads=threads,
        callers=Callers(backend.store, threads, signer, required=needs_token),
        signer=signer,
        promises=Promises(backend.store, threads, settings.poll_s),
    )
    meter = Meter(service)
    return Starlette(
        routes=_routes(service, meter),
        middleware=[
            Middleware(Observation, meter=meter),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(settings.hosts), www_redirect=False),
            Middleware(SameOrigin, refusal=_refusal),
            Middleware(BodyLimit, most=lambda path: settings.upload_bytes if path == _UPLOAD else settings.body_bytes),
        ],
        exception_handlers={
            HTTPException: _explain,
            ThumbsError: _explain,
            SQLAlchemyError: _explain,
            Exception: _fail,
        },
        lifespan=lambda _: _life(service),
    )


@contextlib.asynccontextmanager
async def _life(service: Service) -> AsyncIterator[None]:
    """Ends what an earlier process left open, and looks after what expires while the server lives."""
    store = service.backend.store
    await service.threads.record(store.claim.take)
    lost = await service.threads.record(store.fail_pending, LOST_ERROR, LOST)
    if lost:
        log.warning("%d operations were cut off when the server last stopped; their clients are told", lost)
    sweeper = asyncio.create_task(sweep(service))
    try:
        yield
    finally:
        sweeper.cancel()
        await service.promises.close()
        service.threads.close()
        store.claim.release()


def _routes(service: Service, meter: Meter) -> list[BaseRoute]:
    """First those that need no key."""
    downloads, status, hub = DownloadRoutes(service), StatusRoutes(service, meter), HubRoutes(service)
    parts = (
        SessionRoutes(service),
        ModelRoutes(service),
        TrainingRoutes(service),
        SamplingRoutes(service),
        RetrievalRoutes(service),
        RestRoutes(service),
        SearchRoutes(service),
        CopyRoutes(service),
        UploadRoutes(service),
        MintRoutes(service),
        downloads,
        AbsentRoutes(),
    )
    api = [route for part in parts for route in part.routes()]
    keyed = [Mount(API, routes=api), *OpenAIRoutes(service).routes(), *status.routes()]
    return [
        *status.open_routes(),
        Mount("/download", routes=downloads.open_routes()),
        *hub.open_routes(),
        Mount("", routes=keyed, middleware=[Middleware(Authentication, callers=service.callers)]),
    ]


async def _explain(request: Request, error: Exception) -> Response:
    """A refusal in one sentence. Clients repeat 408, 409, 429 and 5xx, so those stand for what may pass alone."""
    if isinstance(error, HTTPException):
        return _refusal(request.url.path, error.status_code, error.detail, error.headers)
    if isinstance(error, SQLAlchemyError):
        if not is_away(error):
            raise error
        log.error("the database does not answer: %s", error)
        await asyncio.sleep(_PAUSE_S)  # some calls are repeated without a pause
        return _refusal(request.url.path, 503, "the server's database does not answer; try again")
    return _refusal(request.url.path, 404 if isinstance(error, CheckpointError) else 400, str(error))


async def _fail(request: Request, error: Exception) -> Response:
    """A bug of ours. It will not pass, so that its status is none that clients repeat for minutes."""
    text = f"the server failed ({type(error).__name__}); its log tells more"
    return _refusal(request.url.path, 422, text)


def _refusal(path: str, status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    if path.startswith(PREFIXES):
        kind = "invalid_request_error" if status < 500 else "server_error"
        return answer({"error": {"message": detail, "type": kind, "code": status}}, status, headers)
    return answer({"detail": detail}, status, headers)
