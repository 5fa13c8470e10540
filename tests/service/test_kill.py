"""`thumbs serve` is killed while it works, and started again on the same folder and port."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.conformance import MODEL, ROOT, TINKER, environment, environment_of
from service.tiny_chat_model import save_tiny_chat_model

RESUME = "create_training_client_from_state_with_optimizer"
SERVE = "from thumbs.cli.main import app; app()"


class Server:
    """`thumbs serve` of the tiny chat model; `url` stays the same over restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._model = folder, save_tiny_chat_model(folder / "model")
        self.url = ""
        self._process = self._started(port=0)

    def restart_after_kill(self) -> None:
        """kill -9, and a new process."""
        self._process.kill()
        self._process.wait()
        self._process = self._started(port=int(self.url.rpartition(":")[2]))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _started(self, port: int) -> subprocess.Popen[str]:
        options = ["--model", self._model, "--alias", f"{MODEL}={self._model}", "--folder", self._folder / "store"]
        with (self._folder / "log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVE, "serve", *options, "--port", str(port)],
                cwd=ROOT,
                env=environment("", self._folder / "hf"),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"serving on (\S+),", line):
                self.url = found[1]
                return process
        raise AssertionError((self._folder / "log").read_text())


class Caller:
    """Calls without an SDK, which would hide how an answer comes about."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._client = httpx.Client(headers={"X-API-Key": "tml-local"}, timeout=20)

    def ask(self, path: str, /, **body: Any) -> Any:
        """The answer; an answer that is not soon is an error, and so is a refusal."""
        answer = self._client.post(f"{self._server.url}/api/v1/{path}", json=body)
        return answer.raise_for_status().json()

    def promises(self) -> int:
        """How many operations the server has not ended."""
        text = self._client.get(f"{self._server.url}/metrics").text
        found = re.search(r"^thumbs_open_promises (\S+)$", text, re.MULTILINE)
        assert found is not None, text
        return int(float(found[1]))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    try:
        yield server
    finally:
        server.end()


def test_what_had_ended_is_kept_and_what_had_not_says_how_to_go_on(server: Server):
    caller = Caller(server)
    session = caller.ask("create_session", tags=["mine"])["session_id"]
    lora = {"rank": 4, "seed": 1}
    created = caller.ask("create_model", session_id=session, model_seq_id=0, base_model=MODEL, lora_config=lora)
    run = caller.ask("retrieve_future", request_id=created["request_id"])["model_id"]
    ended = caller.ask("save_weights", model_id=run, seq_id=1, path="one")["request_id"]
    result = caller.ask("retrieve_future", request_id=ended)
    assert result["path"] == f"tinker://{run}/weights/one"
    pending = caller.ask("optim_step", model_id=run, seq_id=9, adam_params={})["request_id"]  # waits for those before
    server.restart_after_kill()
    assert caller.ask("retrieve_future", request_id=ended) == result
    assert caller.ask("save_weights", model_id=run, seq_id=1, path="one")["request_id"] == ended
    lost = caller.ask("retrieve_future", request_id=pending)
    assert RESUME in lost["error"]
    assert lost["category"] == "server"
    caller.ask("session_heartbeat", session_id=session)
    later = caller.ask("optim_step", model_id=run, seq_id=2, adam_params={})["request_id"]
    assert RESUME in caller.ask("retrieve_future", request_id=later)["error"]


@pytest.mark.timeout(400)
def test_a_client_goes_on_from_its_checkpoint_as_if_nothing_had_been(server: Server, tmp_path: Path):
    environment_of(TINKER)
    store = tmp_path / "store"
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((tmp_path / "client-log").open("w"))
        client = subprocess.Popen(
            [TINKER.python, "-W", "ignore", "tests/service/kill_script.py"],
            cwd=ROOT,
            env=environment(server.url, tmp_path / "hf"),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        stack.callback(client.wait)
        stack.callback(client.kill)
        assert client.stdout is not None
        run = json.loads(client.stdout.readline())["model_id"]
        until, caller = time.monotonic() + 60, Caller(server)
        while caller.promises() < 5 or len(list((store / "checkpoints").iterdir())) < 3:
            assert time.monotonic() < until
        server.restart_after_kill()
        ended = json.loads(client.stdout.readline())
        seen = json.loads(client.stdout.readline())

    failed = [outcome for outcome in ended["outcomes"] if outcome.startswith("failed: ")]
    assert failed
    assert all(RESUME in outcome for outcome in failed)
    assert all(outcome == "passed" or "make a new one from a checkpoint" in outcome for outcome in ended["drawn"])
    saved = [outcome for outcome in ended["outcomes"] if outcome.startswith("tinker://")]
    assert set(saved) | {f"tinker://{run}/weights/state"} <= set(seen["listed"])
    assert all(seen["whole"])
    assert seen["resumed"] == seen["uninterrupted"]
    assert seen["renderer"] == "qwen3"
    assert run.partition(":")[0] in seen["sessions"]
    assert len(list((store / "checkpoints").iterdir())) == len(seen["listed"])
    assert list((store / "partial").iterdir()) == []
