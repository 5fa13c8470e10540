"""What scripts for MinT do that the SDKs do not: sessions under names of their own, models deleted by their address."""

from __future__ import annotations

from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller, Serve


def _model(session: str, number: int = 0) -> dict[str, Any]:
    return {"session_id": session, "model_seq_id": number, "base_model": MODEL}


def test_a_session_that_its_client_names_is_made_when_it_is_used(caller: Caller) -> None:
    made = caller.result(caller.post("create_model", _model("validate-mis-1")))
    assert made.json()["model_id"] == "validate-mis-1:train:0"
    body = {"session_id": "queue_status_1", "sampling_session_seq_id": 0, "base_model": MODEL}
    sampler = caller.post("create_sampling_session", body).json()["sampling_session_id"]
    assert sampler == "queue_status_1:sample:0"
    assert caller.post("session_heartbeat", {"session_id": "queue_status_1"}).status_code == 200
    again = caller.result(caller.post("create_model", _model("validate-mis-1", 1)))
    assert again.json()["model_id"] == "validate-mis-1:train:1"
    assert caller.request("GET", "/api/v1/sessions/validate-mis-1").json()["training_run_ids"] == [
        "validate-mis-1:train:0",
        "validate-mis-1:train:1",
    ]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a:train:0", "../x", "x" * 65, "é"])
def test_a_name_that_could_be_no_part_of_a_path(caller: Caller, name: str) -> None:
    assert caller.post("create_model", _model(name)).status_code == 400


def test_a_session_that_somebody_else_named_is_not_there(serve: Serve) -> None:
    ann = serve(needs_token=True)
    store = ann.backend.store
    ann.key = store.add_token("ann")
    bob = Caller(ann.http, ann.backend, store.add_token("bob"))
    assert ann.post("create_model", _model("mine")).status_code == 200
    assert bob.post("create_model", _model("mine", 1)).status_code == 404
    sampling = {"session_id": "mine", "sampling_session_seq_id": 0, "base_model": MODEL}
    assert bob.post("create_sampling_session", sampling).status_code == 404
    assert bob.request("DELETE", "/api/v1/models/mine:train:0").status_code == 404


def test_a_session_that_has_ended_is_not_made_again(caller: Caller) -> None:
    caller.post("create_model", _model("once"))
    caller.post("sessions/once/finish")
    assert caller.post("create_model", _model("once", 1)).status_code == 400


def test_a_model_is_deleted_by_its_address(caller: Caller) -> None:
    model = caller.model()
    for _ in range(2):
        assert caller.request("DELETE", f"/api/v1/models/{model}").json()["model_id"] == model
    assert ("unload", model) in caller.backend.calls
    assert caller.request("DELETE", "/api/v1/models/none").status_code == 404
