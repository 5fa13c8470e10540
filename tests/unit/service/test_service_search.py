"""Searching sessions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from service_caller import Caller, Serve


@pytest.fixture
def sessions(caller: Caller) -> dict[str, str]:
    """Ids by a name of their own, oldest first."""
    made = {}
    for name, given in {
        "first": {"display_name": "Nightly run of bob", "user_metadata": {"kind": "rl", "seed": "1"}},
        "second": {"display_name": "nightly eval", "project_id": "p"},
        "third": {"user_metadata": {"kind": "rl"}},
        "fourth": {},
    }.items():
        made[name] = caller.post("create_session", given).json()["session_id"]
    caller.post(f"sessions/{made['second']}/finish", {"reason": {"type": "errored"}})
    caller.post(f"sessions/{made['third']}/finish", {"reason": {"type": "success"}})
    caller.backend.store.finish_session(made["fourth"], "no heartbeat")
    return made


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({}, ["fourth", "third", "second", "first"]),
        ({"display_name": "NIGHT run"}, ["first"]),
        ({"display_name": "nightly"}, ["second", "first"]),
        ({"user_metadata": {"kind": "rl"}}, ["third", "first"]),
        ({"user_metadata": {"kind": "rl", "seed": "1"}}, ["first"]),
        ({"project_ids": ["p", "q"]}, ["second"]),
        ({"statuses": [{"type": "active"}]}, ["first"]),
        ({"statuses": [{"type": "client_finished"}]}, ["third", "second"]),
        ({"statuses": [{"type": "client_finished", "reasons": ["errored"]}, {"type": "active"}]}, ["second", "first"]),
        ({"statuses": [{"type": "failed"}]}, []),
        ({"owner": {"type": "user", "owner_urns": ["somebody"]}}, []),
        ({"owner": {"type": "accessible"}, "limit": 1}, ["fourth"]),
    ],
)
def test_what_is_found(caller: Caller, sessions: dict[str, str], asked: dict[str, Any], names: list[str]) -> None:
    found = caller.post("sessions/search", asked).json()["sessions"]
    assert [each["session_id"] for each in found] == [sessions[name] for name in names]


def test_a_session_by_its_id_or_its_name(caller: Caller, sessions: dict[str, str]) -> None:
    asked = {"session_id": sessions["third"], "display_name": "eval"}
    found = caller.post("sessions/search", asked).json()["sessions"]
    assert [each["session_id"] for each in found] == [sessions["third"], sessions["second"]]


def test_pages_and_what_is_told(caller: Caller, sessions: dict[str, str]) -> None:
    promise = caller.post("create_model", {"session_id": sessions["first"], "model_seq_id": 0, "base_model": "org/toy"})
    model = caller.result(promise).json()["model_id"]
    caller.result(caller.post("save_weights", {"model_id": model, "seq_id": 1, "path": "a"}))
    seen, cursor = [], None
    while True:
        page = caller.post("sessions/search", {"limit": 3, "cursor": cursor}).json()
        seen += page["sessions"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert [each["session_id"] for each in seen] == [sessions[x] for x in ("fourth", "third", "second", "first")]
    assert [each["status"] for each in seen] == [
        None,
        {"type": "client_finished", "reason": {"type": "success"}},
        {"type": "client_finished", "reason": {"type": "errored"}},
        {"type": "active"},
    ]
    assert [each["checkpoints_count"] for each in seen] == [0, 0, 0, 1]
    assert seen[3]["checkpoint_storage_bytes"] == len('{"r": 8}') + len("weights")
    assert seen[2]["project_id"] == "p"


def test_sessions_of_others_are_not_found(serve: Serve) -> None:
    ann = serve(needs_token=True)
    ann.key, key = (ann.backend.store.add_token(name) for name in ("ann", "bob"))
    ann.session()
    assert replace(ann, key=key).post("sessions/search", {"owner": {"type": "accessible"}}).json()["sessions"] == []
