"""What all routes share: the backend, the store, the promises, and whose is what."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from starlette.exceptions import HTTPException
from starlette.routing import Route

from thumbs.clients.backend import Backend
from thumbs.clients.tables import SessionRecord
from thumbs.service import wire
from thumbs.service.auth import Callers
from thumbs.service.promises import Promises
from thumbs.service.screening import Screen
from thumbs.service.threads import Threads
from thumbs.storage import MissingError, StoreError
from thumbs.web.signing import Signer

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class ServiceSettings:
    """How the server is to behave."""

    poll_s: float = 35.0
    """How long a request for a result is held open, seconds; the SDKs give up at 45."""
    session_timeout_s: float = 600.0
    """A session without a heartbeat for so long is over, seconds, and its models leave memory."""
    promise_ttl_s: float = 3600.0
    """How long an outcome is kept, seconds."""
    sweep_s: float = 15.0
    """Time between two looks for what has expired, seconds."""
    body_bytes: int = wire.MAX_BODY_BYTES
    """Largest request body, bytes."""
    upload_bytes: int = 8 << 30
    """Largest checkpoint archive that may be uploaded, bytes, and largest sum of the files in it."""
    compress: bool = False
    """Ask newer SDKs to compress training data; pays on a network, not on one machine."""
    local_paths: bool = True
    """Tell clients the folder of a model's tokenizer; right where clients share this machine's files."""
    hosts: tuple[str, ...] = ("*",)
    """Values of the Host header that are served. On loopback only its own names, or any page in a browser could reach
    the server under a name of its own."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may use the server from a browser; "*" stands for all."""
    root_path: str = ""
    """What a proxy puts before the server's paths, such as /thumbs; links lead there."""


@dataclass(frozen=True)
class Service:
    """One server's parts."""

    backend: Backend
    settings: ServiceSettings
    threads: Threads
    callers: Callers
    signer: Signer
    promises: Promises
    screen: Screen | None = None
    """The filters of prompts and replies; None for none."""

    async def live_session(self, session_id: str, owner: str) -> SessionRecord:
        """The session; raises MissingError unless it is the owner's, HTTPException 400 where it has ended."""
        record = await self.threads.record(self.backend.store.session, session_id, owner)
        if record.finished is not None:
            raise HTTPException(400, f"session {session_id} has ended; create a new client")
        return record

    async def joined_session(self, session_id: str, owner: str) -> SessionRecord:
        """The same, or a new session of that name: scripts written for MinT name theirs themselves.

        A name that somebody else has taken is a 404, as any session of others. Raises HTTPException 400 for a name that
        could be no part of a path.
        """
        store = self.backend.store
        try:
            await self.threads.record(store.session, session_id)
        except MissingError:
            if not _NAME.fullmatch(session_id):
                raise HTTPException(
                    400, f"session_id {session_id!r:.80}: names are up to 64 letters, digits, _ and -"
                ) from None
            with contextlib.suppress(StoreError):  # another request was first
                named = ("named by its client",)
                await self.threads.record(store.add_session, owner, tags=named, session_id=session_id)
        return await self.live_session(session_id, owner)


E = TypeVar("E", bound=Callable[..., Any])


def route(methods: str, *paths: str, keyed: bool = True) -> Callable[[E], E]:
    """Says at which addresses a method of `Routes` answers; methods: as in "POST|DELETE"; keyed: it needs a key."""

    def mark(endpoint: E) -> E:
        vars(endpoint)["address"] = methods.split("|"), paths, keyed
        return endpoint

    return mark


class Routes:
    """Some of the server's endpoints, in the order in which addresses are tried."""

    prefixes: ClassVar[tuple[str, ...]] = ("",)
    """What stands before the paths of all of them."""

    def __init__(self, service: Service) -> None:
        self._service, self._backend, self._store = service, service.backend, service.backend.store
        self._record, self._work = service.threads.record, service.threads.work

    def routes(self, *, keyed: bool = True) -> list[Route]:
        """The routes that need a key, or those that need none."""
        marked = [(name, *value.address) for name, value in vars(type(self)).items() if hasattr(value, "address")]
        return [
            Route(prefix + path, getattr(self, name), methods=methods)
            for prefix in self.prefixes
            for name, methods, paths, needs_key in marked
            for path in paths
            if needs_key == keyed
        ]
