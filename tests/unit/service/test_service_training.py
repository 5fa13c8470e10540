"""Training routes: what reaches the backend, what comes back, and what a bad submission leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller

from thumbs.service.wire_schema import MESSAGES

DATUM = {
    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
    "loss_fn_inputs": {
        "target_tokens": {"data": [2, 3, 4], "dtype": "int64", "shape": [3]},
        "weights": {"data": [1, 1, 1], "dtype": "float32", "shape": [3]},
    },
}


def _pass(model: str, seq_id: int = 1, **changes: Any) -> dict[str, Any]:
    given = {"data": [DATUM], "loss_fn": "ppo", "loss_fn_config": {"clip_low_threshold": 0.9}, **changes}
    return {"model_id": model, "seq_id": seq_id, "forward_backward_input": given}


def test_a_pass_comes_back_as_protobuf_to_who_names_it(caller: Caller) -> None:
    model = caller.model()
    promise = caller.post("forward_backward", _pass(model))
    plain = caller.result(promise).json()
    assert plain["loss_fn_outputs"][0]["logprobs"]["shape"] == [3]
    assert plain["metrics"] == {"loss:sum": pytest.approx(0.09)}
    answer = caller.result(promise, Accept="application/x-protobuf, application/json")
    assert answer.headers["content-type"] == "application/x-protobuf"
    output = MESSAGES["ForwardBackwardOutput"]()
    output.ParseFromString(answer.content)
    assert dict(output.metrics) == {"loss:sum": pytest.approx(0.09)}
    call = ("forward_backward", model, 1, 1, "ppo", {"clip_low_threshold": 0.9}, False)
    assert caller.backend.calls[-1] == call


def test_outputs_of_several_shapes_are_json_to_who_reads_it(caller: Caller) -> None:
    """SDK 0.22 takes both, and reads the trailing dimensions of the first record alone."""
    wide = {"data": [2, 3, 4, 5, 6, 7], "dtype": "int64", "shape": [3, 2]}
    other = {**DATUM, "loss_fn_inputs": {"target_tokens": wide}}
    promise = caller.post("forward_backward", _pass(caller.model(), data=[DATUM, other], loss_fn="cross_entropy"))
    answer = caller.result(promise, Accept="application/x-protobuf, application/json")
    assert answer.headers["content-type"] == "application/json"
    assert [row["logprobs"]["shape"] for row in answer.json()["loss_fn_outputs"]] == [[3], [3, 2]]
    new = caller.result(promise, Accept="application/x-protobuf")
    assert new.headers["content-type"] == "application/x-protobuf"


def test_forward_asks_for_no_gradients(caller: Caller) -> None:
    model = caller.model()
    body = {"model_id": model, "seq_id": 1, "forward_input": _pass(model)["forward_backward_input"]}
    caller.result(caller.post("forward", body))
    assert caller.backend.calls[-1][-1] is True


@pytest.mark.parametrize(
    "changes",
    [
        {"data": [{**DATUM, "loss_fn_inputs": {"weights": {"data": [1, 2], "dtype": "float32", "shape": [3]}}}]},
        {"data": [{"model_input": {"chunks": [{"type": "image", "data": "", "format": "png"}]}, "loss_fn_inputs": {}}]},
        {"data": "no list"},
    ],
)
def test_a_bad_pass_uses_its_number_up(caller: Caller, changes: dict[str, Any]) -> None:
    model = caller.model()
    failed = caller.result(caller.post("forward_backward", _pass(model, 7, **changes)))
    assert failed.json()["category"] == "user"
    assert ("skip", model, 7) in caller.backend.calls


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("optim_step", {"adam_params": {"learning_rate": "fast"}}),
        ("optim_step", {"optimizer_params": {"type": "dimuon", "learning_rate": 1.0}}),
        ("save_weights", {"path": "a", "age_encryption_recipients": ["age1"]}),
        ("load_weights", {"path": "tinker://no/weights/no"}),
        ("load_weights", {}),
        ("save_weights", {"path": 5}),
    ],
)
def test_a_bad_operation_uses_its_number_up(caller: Caller, operation: str, body: dict[str, Any]) -> None:
    model = caller.model()
    failed = caller.result(caller.post(operation, {"model_id": model, "seq_id": 4, **body}))
    assert failed.json()["category"] == "user", failed.text
    assert ("skip", model, 4) in caller.backend.calls


def test_what_cannot_be_read_at_all_is_a_400(caller: Caller) -> None:
    headers = {"X-API-Key": "tml-x", "Content-Type": "application/x-protobuf"}
    answer = caller.http.post("/api/v1/forward_backward", content=b"\xff\xff", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert caller.post("optim_step", {"model_id": 5}).status_code == 400


def test_numbers_beyond_32_bits(caller: Caller) -> None:
    sampler, number = caller.sampler(), 10**18
    body = {"sampling_session_id": sampler, "seq_id": number, "prompt": {"chunks": [{"tokens": [5]}]}}
    assert caller.result(caller.post("asample", body)).status_code == 200
    assert caller.post("asample", {**body, "seq_id": 2**63}).status_code == 400


def test_saving_and_loading(caller: Caller) -> None:
    model = caller.model()
    saved = caller.result(caller.post("save_weights", {"model_id": model, "seq_id": 1, "path": "s"})).json()
    assert saved == {"path": f"tinker://{model}/weights/s", "type": "save_weights"}
    again = caller.result(caller.post("save_weights", {"model_id": model, "seq_id": 2, "path": "s"})).json()
    assert again["category"] == "user"
    over = {"model_id": model, "seq_id": 3, "path": "s", "overwrite": True}
    assert caller.result(caller.post("save_weights", over)).json() == saved
    path = saved["path"].replace("tinker://", "mint://")
    loaded = caller.post("load_weights", {"model_id": model, "seq_id": 4, "path": path, "optimizer": True})
    assert caller.result(loaded).json()["model_id"] == model
    assert caller.backend.calls[-1] == ("load", model, 4, saved["path"], True)


def test_a_model_from_a_checkpoint_gets_the_name_that_clients_work_out(caller: Caller) -> None:
    path, session = caller.checkpoint(), caller.session()
    body = {"session_id": session, "model_seq_id": 5, "path": path, "optimizer": False}
    assert caller.result(caller.post("load_weights", body)).json()["model_id"] == f"{session}:train:5"
    assert caller.backend.calls[-1] == ("create_from", f"{session}:train:5", path, False)


def test_an_ephemeral_sampler_can_be_asked_about(caller: Caller) -> None:
    model = caller.model()
    session = model.partition(":")[0]
    body = {"model_id": model, "seq_id": 1, "sampling_session_seq_id": 2, "kind": "snapshot"}
    answer = caller.result(caller.post("save_weights_for_sampler", body)).json()
    assert answer["sampling_session_id"] == f"{session}:sample:2"
    assert caller.request("GET", f"/api/v1/samplers/{session}:sample:2").json()["base_model"] == MODEL


def test_info_names_the_tokenizer_only_to_clients_of_this_machine(serve: Any) -> None:
    for local, expected in ((True, "/folder/of/tokenizer"), (False, None)):
        caller = serve(local_paths=local)
        model = caller.model()
        info = caller.post("get_info", {"model_id": model}).json()
        assert info["model_data"].get("tokenizer_id") == expected


def test_weights_info(caller: Caller) -> None:
    info = caller.post("weights_info", {"tinker_path": caller.checkpoint()}).json()
    assert info == {
        "base_model": MODEL,
        "is_lora": True,
        "lora_rank": 32,
        "train_unembed": True,
        "train_mlp": True,
        "train_attn": True,
    }
    assert caller.post("weights_info", {"tinker_path": "tinker://a/weights/b"}).status_code == 404


def test_unloading(caller: Caller) -> None:
    model = caller.model()
    answer = caller.result(caller.post("unload_model", {"model_id": model})).json()
    assert answer == {"model_id": model, "type": "unload_model"}
    assert ("unload", model) in caller.backend.calls


def test_the_divergence_from_a_reference_needs_no_number(caller: Caller) -> None:
    path = caller.checkpoint("sampler_weights")
    model = path.split("/")[2]
    ids = {"dtype": "int64", "data": [3, 4], "shape": [2]}
    text = {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]}
    datum = {
        "student_input": text,
        "reference_input": text,
        "target_tokens": ids,
        "weights": {**ids, "dtype": "float32"},
    }
    body = {"model_id": model, "reference_model_path": path, "data": [datum], "temperature": 2.0, "seq_id": None}
    answer = caller.result(caller.post("mint/forward_backward_reverse_kl", body)).json()
    assert answer["outputs"] == [{"loss": {"data": [0.5], "shape": [1], "dtype": "float32"}}]
    assert answer["metrics"] == {"loss:mean": 0.5}
    assert caller.backend.calls[-1] == ("forward_backward_reverse_kl", model, None, 1, path, 2.0)
    wrong = {**body, "data": [datum, {**datum, "weights": None}]}
    assert "datum 1: tensor" in caller.result(caller.post("mint/forward_backward_reverse_kl", wrong)).json()["error"]
    assert not any(call[0] == "skip" for call in caller.backend.calls)
