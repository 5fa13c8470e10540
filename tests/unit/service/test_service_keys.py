"""Every request of the API with one key that it does not know: at its top, and in each object inside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller
from starlette.routing import Mount, Route

from thumbs.service.keys import HARMLESS, NOT_SERVED

TENSOR = {"data": [1], "dtype": "int64", "shape": [1]}
WEIGHTS = {"data": [1.0], "dtype": "float32", "shape": [1]}
INPUT = {"chunks": [{"type": "encoded_text", "tokens": [7]}]}
DATUM = {"model_input": INPUT, "loss_fn_inputs": {"target_tokens": TENSOR, "weights": WEIGHTS}}
KL = {"student_input": INPUT, "reference_input": INPUT, "target_tokens": TENSOR, "weights": WEIGHTS}
NAMES = {"user_metadata": {"a": "b"}, "ttl_seconds": 4000}
OPTIMIZER = {"optimizer_config": {"type": "adamw"}}
CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"

BODIES: dict[str, dict[str, Any]] = {  # by the paths of the routes; $ is filled in with what there is
    "/client/config": {"sdk_version": "0.38.0"},
    "/client/dynamic_config": {"sdk_version": "0.38.0"},
    "/auth/token": {},
    "/create_session": {"tags": [], "sdk_version": "0.38.0", "user_metadata": {"a": "b"}, "display_name": "n"},
    "/session_heartbeat": {"session_id": "$session"},
    "/sessions/{session_id}/finish": {"reason": {"type": "success"}},
    "/sessions/search": {
        "owner": {"type": "own"},
        "statuses": [{"type": "active"}],
        "cursor": {"last_created_at": "2026-01-01T00:00:00Z", "last_session_id": "a"},
        "user_metadata": {"a": "b"},
    },
    "/create_model": {
        "session_id": "$session",
        "model_seq_id": 7,
        "base_model": MODEL,
        "lora_config": {"rank": 4},
        **OPTIMIZER,
    },
    "/load_weights": {"session_id": "$session", "model_seq_id": 8, "path": "$path", "optimizer": False, **OPTIMIZER},
    "/get_info": {"model_id": "$model"},
    "/weights_info": {"tinker_path": "$path"},
    "/unload_model": {"model_id": "$model"},
    "/forward_backward": {
        "model_id": "$model",
        "forward_backward_input": {"data": [DATUM], "loss_fn": "cross_entropy"},
    },
    "/forward": {"model_id": "$model", "forward_input": {"data": [DATUM], "loss_fn": "cross_entropy"}},
    "/optim_step": {"model_id": "$model", "adam_params": {"learning_rate": 0.1}, "optimizer_params": {"type": "adamw"}},
    "/save_weights": {"model_id": "$model", "path": "b", **NAMES},
    "/save_weights_for_sampler": {"model_id": "$model", "path": "c", **NAMES},
    "/save_weights_external": {"model_id": "$model", "path": "d", "ttl_seconds": 4000},
    "/create_sampling_session": {"session_id": "$session", "sampling_session_seq_id": 5, "base_model": MODEL},
    "/asample": {
        "sampling_session_id": "$sampler",
        "prompt": INPUT,
        "sampling_params": {"max_tokens": 1},
        "target_prompt_logprobs": TENSOR,
    },
    "/retrieve_future": {"request_id": "0"},
    "/cancel_future": {"request_id": "0"},
    "/copy_weights": {"source_path": "$path", "destination_project_id": "p"},
    "/mint/checkpoints/interpolate": {"source_paths": ["$path"], "coefficients": [1.0]},
    "/mint/forward_backward_reverse_kl": {"model_id": "$model", "reference_model_path": "$path", "data": [KL]},
    f"{CHECKPOINT}/publish": {},
    f"{CHECKPOINT}/ttl": {"ttl_seconds": 5000},
}
NO_BODY = {
    "/checkpoints/upload": "a form; the files of the archive that are not read are named in the answer",
    "/telemetry": "the SDKs' reports about themselves, which are not read at all",
}
FREE = {"user_metadata", "loss_fn_inputs"}
"""Objects whose keys are the client's."""
METHODS = {f"{CHECKPOINT}/ttl": "PUT"}


def _objects(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        if not path or path[-1] not in FREE:
            yield path
        for key, item in value.items():
            yield from _objects(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _objects(item, (*path, index))


PLACES = [(route, place) for route, body in BODIES.items() for place in _objects(body)]


def _at(value: Any, place: tuple[Any, ...]) -> Any:
    for step in place:
        value = value[step]
    return value


@pytest.fixture
def things(caller: Caller) -> dict[str, str]:
    path = caller.checkpoint()
    model = caller.model()
    return {"$path": path, "$model": model, "$session": model.partition(":")[0], "$sampler": caller.sampler()}


def _filled(value: Any, things: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, things) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, things) for item in value]
    return things.get(value, value) if isinstance(value, str) else value


def _ask(caller: Caller, route: str, body: Any, things: dict[str, str]) -> Any:
    run = things["$path"].split("/")[2]
    address = route.format(session_id=things["$session"], run_id=run, kind="weights", name="a")
    return caller.request(METHODS.get(route, "POST"), f"/api/v1{address}", json=body)


def _said(caller: Caller, answer: Any) -> str:
    """What an operation says in the end."""
    if answer.status_code == 200 and "request_id" in answer.json():
        answer = caller.result(answer)
    return answer.text


def test_every_route_with_a_body_is_tested(caller: Caller) -> None:
    app: Any = caller.http.app
    api = [route for mount in _mounts(app.routes) if mount.path == "/api/v1" for route in mount.routes]
    absent = {"refuse", "untyped"}
    asked = {
        route.path
        for route in api
        if isinstance(route, Route)
        and {"POST", "PUT"} & (route.methods or set())
        and route.endpoint.__name__ not in absent
    }
    assert asked == BODIES.keys() | NO_BODY.keys()


def _mounts(routes: list[Any]) -> Iterator[Mount]:
    for route in routes:
        if isinstance(route, Mount):
            yield route
            yield from _mounts(route.routes)


@pytest.mark.parametrize(("route", "place"), PLACES)
def test_one_unknown_key(caller: Caller, things: dict[str, str], route: str, place: tuple[Any, ...]) -> None:
    body = _filled(copy.deepcopy(BODIES[route]), things)
    _at(body, place)["no_such_key"] = None  # null is absent
    assert "no_such_key" not in _said(caller, _ask(caller, route, body, things))
    _at(body, place)["no_such_key"] = {"a": 1}
    refused = _ask(caller, route, body, things)
    if (place and place[0] in ("prompt", "target_prompt_logprobs")) or (
        route.endswith("reverse_kl") and len(place) > 2
    ):
        said = _said(caller, refused)  # read where the operation starts
        assert "user" in said
    else:
        assert refused.status_code == 400
        said = refused.json()["detail"]
    assert "no_such_key" in said
    assert "allowed: " in said


def test_the_nearest_key_is_named(caller: Caller) -> None:
    body = {"session_id": caller.session(), "model_seq_id": 0, "base_modle": MODEL}
    assert "did you mean 'base_model'?" in caller.post("create_model", body).json()["detail"]


def test_an_unknown_key_uses_up_the_number_of_its_operation(caller: Caller) -> None:
    """Those after it would wait for it."""
    model = caller.model()
    body = {"model_id": model, "seq_id": 1, "adam_params": {"momentum": 0.9}}
    assert "adam_params: momentum" in caller.post("optim_step", body).json()["detail"]
    assert ("skip", model, 1) in caller.backend.calls


@pytest.mark.parametrize("key", sorted(NOT_SERVED))
def test_what_is_known_and_not_served_says_what_to_do(caller: Caller, key: str) -> None:
    body: dict[str, Any] = {"session_id": caller.session(), "model_seq_id": 0, "base_model": MODEL}
    assert caller.post("create_model", {**body, key: None}).status_code == 200
    said = caller.post("create_model", {**body, "model_seq_id": 1, key: {"a": 1}})
    assert (said.status_code, f"{key}: {NOT_SERVED[key]}" in said.json()["detail"]) == (400, True)


def test_what_the_sdks_send_and_nobody_needs_is_taken(caller: Caller, things: dict[str, str]) -> None:
    for name in HARMLESS:
        route, _, key = name.rpartition(".")
        for path, body in BODIES.items():
            if route and route != path.strip("/").replace("{session_id}/", ""):
                continue
            filled = _filled(copy.deepcopy(body), things)
            place = filled["forward_backward_input"]["data"][0] if route == "forward_backward" else filled
            place[key] = place.get(
                key, "snapshot" if key == "kind" else 3 if "seq" in key else [] if "spans" in key else True
            )
            if key == "type":
                place[key] = "a"
            answer = _ask(caller, path, filled, things)
            assert answer.status_code in (200, 404, 410) or "known field" not in answer.text, (path, key, answer.text)


def test_another_base_than_the_checkpoints_is_refused(caller: Caller) -> None:
    path = caller.checkpoint()
    body = {"session_id": caller.session(), "model_seq_id": 0, "path": path, "base_model": MODEL}
    assert "error" not in caller.result(caller.post("load_weights", body)).json()
    other = {**body, "model_seq_id": 1, "base_model": "org/other"}
    assert "org/other" in caller.result(caller.post("load_weights", other)).json()["error"]


def test_metadata_is_bounded_in_bytes(caller: Caller) -> None:
    most = 2**16 - len('{"a": ""}')
    assert caller.post("create_session", {"user_metadata": {"a": "x" * most}}).status_code == 200
    refused = caller.post("create_session", {"user_metadata": {"a": "x" * (most + 1)}})
    assert (refused.status_code, "user_metadata" in refused.json()["detail"]) == (400, True)
    assert caller.post("create_session", {"display_name": "x" * 1024}).status_code == 200
    assert "display_name" in caller.post("create_session", {"display_name": "x" * 1025}).json()["detail"]
