"""What tests of several units share."""

from pathlib import Path

import pytest

from tiny_models import LLAMA, save_random


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama."""
    return save_random(LLAMA, tmp_path_factory.mktemp("tiny-llama"))
