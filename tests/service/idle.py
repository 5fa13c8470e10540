"""A session that is idle for longer than its server's patience, and one whose client is killed.

python tests/service/idle.py IDLE_S TIMEOUT_S    with the SDK's own heartbeats, every 10 s; test_idle.py hurries them
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from service.conformance import MODEL, ROOT, TINKER, environment
from service.serving import running
from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients.backend import Backend
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.service.app import create_app
from thumbs.service.state import ServiceSettings


@dataclass(frozen=True)
class Seen:
    """Losses before and after the idle time; models in memory then, and how long after the kill none was, seconds."""

    losses: list[float]
    models: int
    gone_after_s: float
    reason: str | None


def watch(folder: Path, idle_s: float, timeout_s: float, speed: float) -> Seen:
    """A client that idles and is killed, with a server that forgets sessions `timeout_s` after their last heartbeat."""
    store = Store(folder / "store")
    backend = Backend(store, {MODEL: ModelConfig(name=str(save_tiny_chat_model(folder / "model")))})
    settings = ServiceSettings(session_timeout_s=timeout_s, sweep_s=min(timeout_s / 8, 15.0))
    try:
        with running(create_app(backend, b"key" * 11, needs_token=False, settings=settings)) as url:
            command = [TINKER.python, "-W", "ignore", "tests/service/idle_script.py", str(idle_s), str(speed)]
            client = subprocess.Popen(command, cwd=ROOT, env=environment(url, folder / "hf"), stdout=subprocess.PIPE)
            try:
                assert client.stdout is not None
                told = json.loads(client.stdout.readline())
                models = backend.waiting()["models"]
            finally:
                client.kill()
                client.wait()
            killed = time.monotonic()
            while backend.waiting()["models"]:
                assert time.monotonic() - killed < 3 * timeout_s + 30
                time.sleep(0.05)
            gone = time.monotonic() - killed
            session = store.session(told["model_id"].partition(":")[0])
    finally:
        backend.close()
        store.close()
    return Seen(told["losses"], models, gone, session.reason)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    idle_s, timeout_s = map(float, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"{watch(Path(folder), idle_s, timeout_s, 1.0)}\n")


if __name__ == "__main__":
    main()
