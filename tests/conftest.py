"""What tests of several units share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import postgres_server
from tiny_models import LLAMA, save_random


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama."""
    return save_random(LLAMA, tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """The socket of a PostgreSQL server; skips where there is none to start."""
    if reason := postgres_server.missing():
        pytest.skip(f"no PostgreSQL: {reason}")
    with postgres_server.running() as socket:
        yield socket
