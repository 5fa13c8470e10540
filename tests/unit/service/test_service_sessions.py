"""Start-up, sessions, and what a session leaves behind."""

from __future__ import annotations

import time

from service_caller import Caller, Serve


def test_flags_depend_on_the_key_and_the_sdk(caller: Caller) -> None:
    def flags(key: str, version: str) -> tuple[bool, bool]:
        body = caller.post("client/config", {"sdk_version": version}, **{"X-API-Key": key}).json()
        return body["pjwt_auth_enabled"], body["use_pyqwest_transport"]

    assert flags("tml-x", "0.38.0") == (False, True)
    assert flags("sk-x", "0.22.0") == (True, False)
    assert flags("tml-x", "0.22.0") == (False, False)
    assert flags("tml-x", "of the future") == (False, True)
    assert caller.post("client/dynamic_config", {"sdk_version": "0.38.0"}).json()["sample_cancel_enabled"]


def test_a_session_lives_and_ends(caller: Caller) -> None:
    session, model = None, caller.model()
    session = model.partition(":")[0]
    assert caller.post("session_heartbeat", {"session_id": session}).status_code == 200
    found = caller.request("GET", f"/api/v1/sessions/{session}").json()
    assert found["training_run_ids"] == [model]
    assert session in caller.request("GET", "/api/v1/sessions").json()["sessions"]
    for reason in ("success", "errored"):
        assert caller.post(f"sessions/{session}/finish", {"reason": {"type": reason}, "detail": None}).is_success
    assert caller.backend.store.session(session).reason == "success"  # type: ignore[union-attr]
    assert caller.backend.calls.count(("unload", model)) == 1
    assert caller.post("session_heartbeat", {"session_id": session}).status_code == 410
    refused = caller.post("create_model", {"session_id": session, "model_seq_id": 9, "base_model": "x"})
    assert refused.status_code == 400
    assert "ended" in refused.json()["detail"]


def test_a_silent_session_ends_by_itself(serve: Serve) -> None:
    caller = serve(session_timeout_s=0.2, sweep_s=0.05)
    model, sampler = caller.model(), caller.sampler()
    deadline = time.monotonic() + 5
    wanted = {("unload", model), ("close_sampler", sampler)}
    while not wanted <= {call[:2] for call in caller.backend.calls} and time.monotonic() < deadline:
        time.sleep(0.02)
    assert wanted <= {call[:2] for call in caller.backend.calls}


def test_telemetry_is_taken_whatever_it_is(caller: Caller) -> None:
    for content in (b"", b"no json", b"{}" * 1000):
        answer = caller.http.post("/api/v1/telemetry", content=content, headers={"X-API-Key": "tml-x"})
        assert answer.json() == {"status": "accepted"}


def test_an_unknown_session(caller: Caller) -> None:
    assert caller.post("session_heartbeat", {"session_id": "no"}).status_code == 404
    assert caller.request("GET", "/api/v1/sessions/no").status_code == 404
