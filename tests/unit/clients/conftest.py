"""A store in an empty folder, with its rows in SQLite and again in PostgreSQL, and its clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from store_cases import URLS, Clock

import postgres_server
from thumbs.clients.store import Store


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """Where the rows of a store in the test's folder are; None is its default, SQLite."""
    if request.param == "sqlite":
        yield None
        return
    with postgres_server.new_database(request.getfixturevalue("postgres")) as made:
        URLS[tmp_path] = made
        yield made


@pytest.fixture
def store(tmp_path: Path, clock: Clock, url: str | None) -> Iterator[Store]:
    opened = Store(tmp_path, url, clock=clock)
    yield opened
    opened.close()
