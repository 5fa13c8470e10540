"""A database that is away for a while costs a wait, never a result; and one server works with a store."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_backend import FakeBackend
from service_caller import Caller, Serve
from sqlalchemy import create_engine, text
from starlette.testclient import TestClient

from thumbs.clients.store import Store
from thumbs.errors import ConfigError
from thumbs.service import promises, refusals
from thumbs.service.app import create_app
from thumbs.storage import database as databases

ADAM = {"learning_rate": 0.1}


class LockedFile:
    """SQLite, locked by another program."""

    url = None

    def __init__(self, file: Path) -> None:
        self._file = file

    def go(self) -> None:
        self._other = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        self._other.execute("BEGIN EXCLUSIVE")

    def come_back(self) -> None:
        self._other.close()


class StoppedServer:
    """PostgreSQL that cuts every connection and takes no new one."""

    def __init__(self, socket: Path) -> None:
        self._name = f"away_{uuid.uuid4().hex}"
        server = f"postgresql+psycopg://postgres@/postgres?host={socket}"
        self._engine = create_engine(server, isolation_level="AUTOCOMMIT")
        self.ask(f"CREATE DATABASE {self._name}")
        self.url = server.replace("/postgres?", f"/{self._name}?")

    def ask(self, *statements: str) -> None:
        with self._engine.connect() as connection:
            for statement in statements:
                connection.execute(text(statement))

    def cut(self) -> None:
        self.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'")  # noqa: S608

    def go(self) -> None:
        self.ask(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS false")
        self.cut()

    def come_back(self) -> None:
        self.ask(f"ALTER DATABASE {self._name} ALLOW_CONNECTIONS true")

    def close(self) -> None:
        self.ask(f"DROP DATABASE {self._name} WITH (FORCE)")
        self._engine.dispose()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(promises, "_PAUSES_S", (0.05, 0.1))
    monkeypatch.setattr(refusals, "_PAUSE_S", 0.01)


@pytest.fixture(params=["sqlite", "postgresql"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "sqlite":
        yield LockedFile(tmp_path / "store" / "store.db")
        return
    server = StoppedServer(request.getfixturevalue("postgres"))
    yield server
    server.close()


def until(true: Callable[[], bool]) -> None:
    for _ in range(400):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it never came true")


def step(caller: Caller, number: int, model: str) -> Any:
    return caller.post("optim_step", {"model_id": model, "seq_id": number, "adam_params": ADAM})


@pytest.mark.parametrize("keyed", [False, True])
def test_what_ends_while_the_database_is_away_is_told_then_and_stored_after(
    serve: Serve, away: Any, keyed: bool
) -> None:
    caller = serve(needs_token=keyed, database=away.url)
    if keyed:
        caller.key = caller.backend.store.add_token("ann")
    model, caller.backend.hold = caller.model(), True
    promise = step(caller, 1, model)
    assert caller.result(promise).status_code == 408
    request_id = promise.json()["request_id"]
    away.go()
    caller.backend.release()  # nobody's poll is attached
    until(lambda: caller.result(promise).json() == {"metrics": {"step": 1.0}})
    assert step(caller, 2, model).status_code == 503
    away.come_back()
    store = caller.backend.store
    until(lambda: (record := store.future(request_id)) is not None and record.finished is not None)
    assert caller.result(promise).json() == {"metrics": {"step": 1.0}}
    caller.backend.hold = False
    assert caller.result(step(caller, 2, model)).json() == {"metrics": {"step": 1.0}}  # the number was not used up
    assert sum(call[0] == "optim_step" for call in caller.backend.calls) == 2


def test_a_poll_that_is_attached_gets_its_result_while_the_database_is_away(serve: Serve, away: Any) -> None:
    caller = serve(database=away.url, poll_s=30.0)
    model, caller.backend.hold = caller.model(), True
    promise = step(caller, 1, model)
    original = caller.backend.release

    def go_and_release() -> None:
        away.go()
        original()

    timer = threading.Timer(0.2, go_and_release)
    timer.start()
    assert caller.result(promise).json() == {"metrics": {"step": 1.0}}
    timer.join()
    away.come_back()


def test_a_start_that_needs_the_database_is_asked_for_again(
    serve: Serve, away: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = serve(database=away.url)
    path = caller.checkpoint()
    body = {"session_id": caller.session(), "model_seq_id": 0, "path": path}
    original = caller.backend.create_from

    def create_from(*args: Any) -> Any:
        monkeypatch.setattr(caller.backend, "create_from", original)
        away.go()
        return original(*args)

    monkeypatch.setattr(caller.backend, "create_from", create_from)
    assert caller.post("load_weights", body).status_code == 503
    away.come_back()
    until(
        lambda: (
            (answer := caller.post("load_weights", body)).status_code == 200
            and "error" not in caller.result(answer).json()
        )
    )


def test_an_orderly_end_says_what_is_lost(serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = LockedFile(tmp_path / "store" / "store.db")
    caller = serve()
    model, caller.backend.hold = caller.model(), True
    promise = step(caller, 1, model)
    away.go()
    caller.backend.release()
    until(lambda: caller.result(promise).status_code == 200)
    with caplog.at_level(logging.ERROR):
        caller.http.__exit__()
    away.come_back()
    assert f"optim_step {promise.json()['request_id']} of local is lost" in caplog.text
    lost = serve().result(promise).json()
    assert "stopped before this operation ended" in lost["error"]


def test_a_result_that_can_never_be_stored_is_told_and_then_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = serve()
    store, model = caller.backend.store, caller.model()
    original = store.finish_future

    def finish(request_id: str, **outcome: Any) -> None:
        if outcome.get("error") is None:
            raise ValueError("too long for a column")
        original(request_id, **outcome)

    monkeypatch.setattr(store, "finish_future", finish)
    promise = step(caller, 1, model)
    until(lambda: (record := store.future(promise.json()["request_id"])) is not None and record.finished is not None)
    assert "could not store the result (ValueError)" in caller.result(promise).json()["error"]


def test_connections_that_the_server_dropped_are_replaced(request: pytest.FixtureRequest, serve: Serve) -> None:
    server = StoppedServer(request.getfixturevalue("postgres"))
    caller = serve(database=server.url)
    for _ in range(3):
        server.cut()
        assert caller.post("create_session", {}).status_code == 200
    caller.http.__exit__()
    server.close()


def _second(folder: Path, url: str | None) -> None:
    store = Store(folder, url)
    try:
        with TestClient(create_app(FakeBackend(store).as_backend(), b"k" * 32, needs_token=False)):
            pass
    finally:
        store.close()


def test_a_second_server_is_refused_and_changes_nothing(serve: Serve, away: Any, tmp_path: Path) -> None:
    caller = serve(database=away.url)
    model, caller.backend.hold = caller.model(), True
    promise = step(caller, 1, model)
    with pytest.raises(ConfigError, match="another server works with the folder"):
        _second(tmp_path / "store", away.url)
    if away.url is not None:
        with pytest.raises(ConfigError, match="another server works with this database"):
            _second(tmp_path / "another", away.url)
    caller.backend.release()
    assert caller.result(promise).json() == {"metrics": {"step": 1.0}}
    caller.http.__exit__()
    _second(tmp_path / "store", away.url)  # it is free once the first has ended


def test_a_claim_comes_back_with_the_database(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = StoppedServer(request.getfixturevalue("postgres"))
    store = Store(tmp_path, server.url)
    store.claim.take()
    server.go()
    store.claim.renew()
    server.come_back()
    store.claim.renew()
    with pytest.raises(ConfigError, match="this database"):
        _second(tmp_path / "another", server.url)
    store.close()
    server.close()


def test_a_key_made_while_the_server_runs_is_asked_for_at_once(serve: Serve, tmp_path: Path) -> None:
    caller = serve()
    assert caller.post("create_session").status_code == 200
    jwt = caller.post("auth/token").json()["jwt"]
    other = Store(tmp_path / "store")  # as `thumbs serve --add-token` opens it
    token = other.add_token("ann")
    assert caller.post("create_session").status_code == 401
    caller.key = jwt  # given out when everybody was one
    assert caller.post("create_session").status_code == 401
    caller.key = token
    assert caller.post("create_session").status_code == 200
    other.revoke(other.tokens()[0].id)
    other.close()
    caller.key = "tml-other"
    assert caller.post("create_session").status_code == 401  # the last key gone does not open the door
