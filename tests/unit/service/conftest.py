"""A server of toy numbers and a client of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend
from service_caller import Caller, Serve
from starlette.testclient import TestClient

from thumbs.clients.store import Store
from thumbs.safety.filters import FilterSet
from thumbs.service.app import create_app
from thumbs.service.screening import Screen
from thumbs.service.state import ServiceSettings


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a server on the same store, after the one before has ended; `needs_token` and settings as given."""
    stack = ExitStack()

    def start(
        *,
        needs_token: bool = False,
        tokenizer: Path | None = None,
        database: str | None = None,
        filters: FilterSet | None = None,
        **settings: Any,
    ) -> Caller:
        stack.close()
        store = Store(tmp_path / "store", database)
        stack.callback(store.close)
        backend = FakeBackend(store, tokenizer)
        chosen = ServiceSettings(**{"poll_s": 0.2, "sweep_s": 3600.0, **settings})
        screen = None if filters is None else Screen(filters, tmp_path)
        app = create_app(backend.as_backend(), b"k" * 32, needs_token=needs_token, settings=chosen, screen=screen)
        http = stack.enter_context(TestClient(app, raise_server_exceptions=False))
        return Caller(http, backend)

    with stack:
        yield start


@pytest.fixture
def caller(serve: Serve) -> Caller:
    """The one user of a server without keys."""
    return serve()
