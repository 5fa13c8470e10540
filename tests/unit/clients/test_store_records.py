"""Tokens, sessions, runs, samplers and futures of a store."""

from __future__ import annotations

import hashlib
import sqlite3
import uuid
from dataclasses import FrozenInstanceError
from datetime import UTC, timedelta
from pathlib import Path

import pytest
from store_cases import START, Clock, add_run

from thumbs.clients.store import Store, StoreError
from thumbs.clients.types import LoraConfig
from thumbs.storage import MissingError


def test_a_token_tells_its_owner_until_it_is_revoked(store: Store, clock: Clock):
    ann = store.add_token("ann")
    clock.later(1)
    bob = store.add_token("bob")
    assert ann.startswith("tml-")
    assert len(ann) > 4 + 256 // 6
    assert [store.owner_of(token) for token in (ann, bob, "tml-x", "", ann[:-1])] == ["ann", "bob", None, None, None]
    assert [(token.owner, token.created) for token in store.tokens()] == [("ann", START), ("bob", clock.now)]
    store.revoke(store.tokens()[0].id)
    assert [store.owner_of(token) for token in (ann, bob)] == [None, "bob"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_only_the_hash_of_a_token_is_on_the_disk(store: Store, tmp_path: Path):
    token = store.add_token("ann")
    store.close()
    secret = token.removeprefix("tml-").encode()
    assert all(secret not in file.read_bytes() for file in tmp_path.iterdir() if file.is_file())
    with sqlite3.connect(tmp_path / "store.db") as database:
        digests = database.execute("SELECT digest FROM tokens").fetchall()
    assert digests == [(hashlib.sha256(token.encode()).hexdigest(),)]


def test_revoking_what_is_no_token_is_an_error(store: Store):
    with pytest.raises(StoreError, match="no token has the id 'x'"):
        store.revoke("x")


def test_a_session_is_kept_as_it_was_given(store: Store):
    session_id = store.add_session(
        "ann",
        tags=("a", "b"),
        user_metadata={"team": "ü"},
        project_id="p",
        display_name="mine",
        sdk_version="0.38.0",
    )
    assert str(uuid.UUID(session_id)) == session_id
    session = store.session(session_id)
    assert session
    assert (session.id, session.owner, session.tags, session.user_metadata) == (
        session_id,
        "ann",
        ["a", "b"],
        {"team": "ü"},
    )
    assert (session.project_id, session.display_name, session.sdk_version) == ("p", "mine", "0.38.0")
    assert (session.created, session.last_seen, session.finished, session.reason) == (START, START, None, None)
    assert session.created.tzinfo is UTC
    with pytest.raises(FrozenInstanceError):
        session.owner = "bob"  # pyright: ignore[reportAttributeAccessIssue]
    assert store.session(session_id, "ann") == session
    for unknown in (("unknown", None), (session_id, "bob")):
        with pytest.raises(MissingError, match="there is no session"):
            store.session(*unknown)


def test_an_owner_lists_their_sessions_newest_first(store: Store, clock: Clock):
    mine = []
    for _ in range(5):
        mine.append(store.add_session("ann"))
        store.add_session("bob")
        clock.later(1)
    page, total = store.sessions("ann", 2, 1)
    assert ([session.id for session in page], total) == ([mine[3], mine[2]], 5)
    assert store.sessions("ann", 10, 5) == ([], 5)
    assert store.sessions("eve", 10, 0) == ([], 0)


def test_a_session_is_stale_when_it_is_silent_for_long(store: Store, clock: Clock):
    silent, alive, finished = (store.add_session("ann") for _ in range(3))
    store.finish_session(finished, "success")
    clock.later(60)
    store.touch_session(alive)
    assert store.stale_sessions(60) == []
    clock.later(1)
    assert store.stale_sessions(60) == [silent]
    assert sorted(store.stale_sessions(0.5)) == sorted([silent, alive])
    session = store.session(alive)
    assert session
    assert session.last_seen == START + timedelta(seconds=60)


def test_the_first_reason_to_finish_a_session_stays(store: Store, clock: Clock):
    session_id = store.add_session("ann")
    first = clock.later(5)
    store.finish_session(session_id, "errored")
    clock.later(5)
    store.finish_session(session_id, "success")
    store.finish_session("unknown", "success")
    session = store.session(session_id)
    assert session
    assert (session.finished, session.reason) == (first, "errored")


def test_a_run_is_kept_as_it_was_created(store: Store, clock: Clock):
    session_id = store.add_session("ann")
    run_id = f"{session_id}:train:0"
    lora = LoraConfig(rank=16, seed=2**62, train_unembed=False, train_attn=False)
    store.add_run(run_id, session_id, "ann", "Qwen/Qwen3-0.6B", lora, {"renderer_name": "qwen3"})
    later = clock.later(7)
    store.touch_run(run_id)
    run = store.run(run_id)
    assert run
    assert (run.id, run.session_id, run.owner, run.base_model) == (run_id, session_id, "ann", "Qwen/Qwen3-0.6B")
    assert (run.rank, run.seed, run.train_unembed, run.train_mlp, run.train_attn) == (16, 2**62, False, True, False)
    assert run.lora == lora
    assert (run.user_metadata, run.created, run.last_request) == ({"renderer_name": "qwen3"}, START, later)
    with pytest.raises(MissingError, match="'unknown'"):
        store.run("unknown")


def test_a_run_needs_a_new_id_and_a_session(store: Store):
    run_id = add_run(store)
    session_id = run_id.partition(":")[0]
    with pytest.raises(StoreError, match=f"cannot add '{run_id}' to the runs: it is there already"):
        add_run(store, session_id=session_id)
    with pytest.raises(StoreError, match="cannot add 'nobody:train:0' to the runs"):
        add_run(store, session_id="nobody")
    assert len(store.runs_of(session_id)) == 1


def test_runs_are_listed_by_owner_and_by_session(store: Store, clock: Clock):
    session_id = store.add_session("ann")
    mine = []
    for number in range(3):
        mine.append(add_run(store, number=number, session_id=session_id))
        clock.later(1)
    theirs = add_run(store, "bob")
    assert [run.id for run in store.runs_of(session_id)] == mine
    page, total = store.runs("ann", 2, 0)
    assert ([run.id for run in page], total) == ([mine[2], mine[1]], 3)
    assert [run.id for run in store.runs("bob", 9, 0)[0]] == [theirs]


def test_a_sampler_is_kept_with_what_it_samples_from(store: Store, clock: Clock):
    session_id = store.add_session("ann")
    store.add_sampler("s:sample:0", session_id, "ann", "tiny")
    clock.later(1)
    store.add_sampler("s:sample:1", session_id, "ann", "tiny", "tinker://r/weights/a")
    assert [sampler.id for sampler in store.samplers_of(session_id)] == ["s:sample:0", "s:sample:1"]
    sampler = store.sampler("s:sample:1")
    assert sampler
    assert (sampler.session_id, sampler.owner, sampler.base_model) == (session_id, "ann", "tiny")
    assert (sampler.model_path, sampler.created) == ("tinker://r/weights/a", clock.now)
    with pytest.raises(MissingError, match="'unknown'"):
        store.sampler("unknown")
    assert store.samplers_of("unknown") == []
    with pytest.raises(StoreError, match="cannot add 's:sample:0' to the samplers"):
        store.add_sampler("s:sample:0", session_id, "bob", "other")
    with pytest.raises(StoreError, match="its parent does not exist"):
        store.add_sampler("new", "unknown", "bob", "other")


def test_a_future_is_pending_and_then_has_its_result(store: Store, clock: Clock):
    session_id = store.add_session("ann")
    made = store.add_future("r1", "ann", "Sample", session_id=session_id, key=("m", 10**18), body_hash="h")
    assert store.future("r1") == made
    assert (made.request_id, made.owner, made.kind, made.session_id) == ("r1", "ann", "Sample", session_id)
    assert (made.scope, made.seq, made.body_hash, made.created) == ("m", 10**18, "h", START)
    assert (made.finished, made.result, made.error, made.category) == (None, None, None, None)
    later = clock.later(1)
    store.finish_future("r1", result=b"\0\xff", content_type="application/x-protobuf")
    done = store.future("r1")
    assert done
    assert (done.finished, done.result, done.content_type, done.error) == (
        later,
        b"\0\xff",
        "application/x-protobuf",
        None,
    )
    assert store.future("unknown") is None


def test_a_future_ends_once(store: Store):
    store.add_future("r1", "ann", "Sample")
    store.finish_future("r1", error="datum 0: no weights", category="user")
    store.finish_future("r1", result=b"late")
    store.finish_future("unknown", result=b"x")
    future = store.future("r1")
    assert future
    assert (future.result, future.error, future.category) == (None, "datum 0: no weights", "user")
    assert store.future("unknown") is None


def test_the_same_key_gives_the_original_future(store: Store):
    first = store.add_future("r1", "ann", "OptimStep", key=("m", 1), body_hash="h")
    assert store.add_future("r2", "ann", "OptimStep", key=("m", 1), body_hash="h") == first
    assert store.add_future("r3", "ann", "OptimStep", key=("m", 1), body_hash="other").body_hash == "h"
    store.finish_future("r1", result=b"x")
    assert store.add_future("r4", "ann", "OptimStep", key=("m", 1), body_hash="h").result == b"x"
    assert [store.future(name) for name in ("r2", "r3", "r4")] == [None] * 3
    assert store.add_future("r5", "ann", "OptimStep", key=("m", 2)).request_id == "r5"
    assert store.add_future("r6", "ann", "OptimStep", key=("n", 1)).request_id == "r6"
    for name in ("r7", "r8"):  # without a key each is its own
        assert store.add_future(name, "ann", "OptimStep").request_id == name


def test_a_future_needs_a_new_id_and_a_known_session(store: Store):
    store.add_future("r1", "ann", "Sample")
    with pytest.raises(StoreError, match="cannot add 'r1' to the futures"):
        store.add_future("r1", "ann", "Sample")
    with pytest.raises(StoreError, match="cannot add 'r1' to the futures"):
        store.add_future("r1", "ann", "Sample", key=("m", 1))
    with pytest.raises(StoreError, match="its parent does not exist"):
        store.add_future("r2", "ann", "Sample", session_id="unknown", key=("m", 1))


def test_only_what_ended_long_ago_is_swept(store: Store, clock: Clock):
    for name in ("pending", "old", "young"):
        store.add_future(name, "ann", "Sample")
    store.finish_future("old", result=b"x")
    clock.later(100)
    store.finish_future("young", result=b"x")
    assert store.sweep_futures(100) == 0
    clock.later(1)
    assert store.sweep_futures(100) == 1
    assert [store.future(name) is None for name in ("pending", "old", "young")] == [False, True, False]


def test_pending_futures_fail_after_a_crash(store: Store):
    for name in ("done", "a", "b"):
        store.add_future(name, "ann", "Sample")
    store.finish_future("done", result=b"x")
    error = "the server restarted; load the last checkpoint"
    assert store.fail_pending(error, "server") == 2
    assert store.fail_pending("again", "server") == 0
    found = [store.future(name) for name in ("done", "a", "b")]
    assert [future.error for future in found if future] == [None, error, error]
    assert [future.category for future in found if future] == [None, "server", "server"]
