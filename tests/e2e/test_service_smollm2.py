"""The service with a model of real size and the real SDK."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.conformance import TINKER, environment_of
from service.serving import running, seen_by
from thumbs.clients.backend import Backend
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.errors import ModelError
from thumbs.models.catalog import resolve
from thumbs.service.app import create_app

MODEL = "smollm2-135m"


@pytest.mark.real_model
def test_smollm2_learns_says_it_and_goes_on(tmp_path: Path):
    environment_of(TINKER)
    try:
        resolve(MODEL)
    except ModelError as error:
        pytest.skip(f"SmolLM2 weights cannot be had: {error}")
    store = Store(tmp_path / "store")
    backend = Backend(store, {MODEL: ModelConfig(name=MODEL)})
    try:
        with running(create_app(backend, b"key" * 11, needs_token=False)) as url:
            seen = seen_by(TINKER, "smollm2_script.py", url, tmp_path, model=MODEL)
    finally:
        backend.close()
        store.close()
    assert seen["losses"][-1] < 0.2 * seen["losses"][0]
    assert seen["said"] == "Over Zorgon the sky is striped in green and violet."
    assert seen["stop_reason"] == "stop"
    assert seen["resumed"] == seen["went_on"]
