"""A store on each kind of database, a clock that the test turns, a project with a person in it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette

import postgres_server
from collect_visitor import team_app
from collect_world import Clock, project_of_pairs
from thumbs.collect.store import CollectStore


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """Where a store may be: a new file, then a new schema."""
    if request.param == "sqlite":
        yield tmp_path / "collect.db"
        return
    with postgres_server.new_database(request.getfixturevalue("postgres")) as url:
        yield url


@pytest.fixture
def store(database: Path | str, clock: Clock) -> Iterator[CollectStore]:
    opened = CollectStore(database, clock=clock, chance=random.Random(7))
    yield opened
    opened.close()


@pytest.fixture
def app(store: CollectStore) -> Starlette:
    """A team's site with two pairs."""
    project_of_pairs(store, 2)
    return team_app(store)
