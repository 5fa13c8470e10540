"""The training service as a Starlette application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Mount

from thumbs.clients.backend import Backend
from thumbs.errors import ThumbsError
from thumbs.service.absent import AbsentRoutes
from thumbs.service.auth import Authentication, Callers
from thumbs.service.copies import CopyRoutes
from thumbs.service.downloads import DownloadRoutes
from thumbs.service.hub import HubRoutes
from thumbs.service.mint import MintRoutes
from thumbs.service.models import ModelRoutes
from thumbs.service.openai import OpenAIRoutes
from thumbs.service.promises import LOST, LOST_ERROR, Promises
from thumbs.service.refusals import Refusals
from thumbs.service.rest import RestRoutes
from thumbs.service.retrieval import RetrievalRoutes
from thumbs.service.sampling import SamplingRoutes
from thumbs.service.screening import Screen
from thumbs.service.sessions import SessionRoutes, sweep
from thumbs.service.state import Service, ServiceSettings
from thumbs.service.status import Meter, Observation, StatusRoutes
from thumbs.service.threads import Threads
from thumbs.service.training import TrainingRoutes
from thumbs.service.uploads import UploadRoutes
from thumbs.web.guards import BodyLimit, KnownHost, SameOrigin
from thumbs.web.proxies import Forwarded
from thumbs.web.signing import Signer

log = logging.getLogger(__name__)

API = "/api/v1"
_UPLOAD = f"{API}/checkpoints/upload"


def create_app(
    backend: Backend,
    key: bytes,
    *,
    needs_token: bool,
    settings: ServiceSettings | None = None,
    screen: Screen | None = None,
) -> Starlette:
    """The application. `key` signs links and credentials; without `needs_token` all callers are one. screen: looks at
    what is sampled.

    The backend and its store are the caller's to close, after the application has ended.
    """
    settings = settings or ServiceSettings()
    threads, signer = Threads(), Signer(key)
    service = Service(
        backend=backend,
        settings=settings,
        threads=threads,
        callers=Callers(backend.store, threads, signer, required=needs_token),
        signer=signer,
        promises=Promises(backend.store, threads, settings.poll_s),
        screen=screen,
    )
    meter, refusals = Meter(service), Refusals(settings.root_path)
    return Starlette(
        routes=_routes(service, meter),
        middleware=_middleware(settings, meter, refusals),
        exception_handlers={
            HTTPException: refusals.explain,
            ThumbsError: refusals.explain,
            SQLAlchemyError: refusals.explain,
            Exception: refusals.fail,
        },
        lifespan=lambda _: _life(service),
    )


def _middleware(settings: ServiceSettings, meter: Meter, refusals: Refusals) -> list[Middleware]:
    """From the outside to the inside."""
    upload = f"{settings.root_path}{_UPLOAD}"
    pages = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
    )
    return [
        Middleware(Forwarded, prefix=settings.root_path),
        Middleware(Observation, meter=meter),
        Middleware(KnownHost, hosts=settings.hosts, refusal=refusals.refuse),
        Middleware(SameOrigin, refusal=refusals.refuse, origins=settings.origins),
        *([pages] if settings.origins else []),
        Middleware(BodyLimit, most=lambda path: settings.upload_bytes if path == upload else settings.body_bytes),
    ]


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
        if service.screen is not None:
            service.screen.close()
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
        CopyRoutes(service),
        UploadRoutes(service),
        MintRoutes(service),
        downloads,
        AbsentRoutes(service),
    )
    api = [route for part in parts for route in part.routes()]
    keyed = [Mount(API, routes=api), *OpenAIRoutes(service).routes(), *status.routes()]
    return [
        *status.routes(keyed=False),
        Mount("/download", routes=downloads.routes(keyed=False)),
        *hub.routes(keyed=False),
        Mount("", routes=keyed, middleware=[Middleware(Authentication, callers=service.callers)]),
    ]
