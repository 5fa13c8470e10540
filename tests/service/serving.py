"""Servers in threads of this process, and scripts that run against them with an SDK."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.conformance import MODEL, ROOT, Sdk, environment
from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients.backend import Backend
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.service.app import create_app


@contextlib.contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """The URL at which `app` answers."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, port=0, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def served_by(
    kind: type[Backend],
    folder: Path,
    model: str = MODEL,
    context: int = 256,
    size: Mapping[str, int] | None = None,
    **options: Any,
) -> Iterator[str]:
    """The URL of a server of the tiny chat model, or one of that `size`, under the name `model`, with a backend of this
    kind.
    """
    store = Store(folder / "store")
    path = save_tiny_chat_model(folder / "model", context=context, **(size or {}))
    backend = kind(store, {model: ModelConfig(name=str(path))}, **options)
    try:
        with running(create_app(backend, b"key" * 11, needs_token=False)) as url:
            yield url
    finally:
        backend.close()
        store.close()


def seen_by(sdk: Sdk, script: str, url: str, folder: Path, longest_s: float = 240, model: str = MODEL) -> Any:
    """What a script of this folder prints as JSON, run with the SDK against the server."""
    done = subprocess.run(
        [sdk.python, "-W", "ignore", f"tests/service/{script}"],
        cwd=ROOT,
        env=environment(url, folder / "hf", model),
        capture_output=True,
        text=True,
        check=False,
        timeout=longest_s,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)
