"""Sampling routes."""

from __future__ import annotations

from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller

from thumbs.service.wire_schema import MESSAGES

PROMPT = {"chunks": [{"type": "encoded_text", "tokens": [7]}, {"type": "encoded_text", "tokens": [8, 9]}]}


def _sample(sampler: str, **changes: Any) -> dict[str, Any]:
    params = {"max_tokens": 3, "temperature": 0.7}
    return {"sampling_session_id": sampler, "seq_id": 0, "prompt": PROMPT, "sampling_params": params, **changes}


def test_a_sample(caller: Caller) -> None:
    promise = caller.post("asample", _sample(caller.sampler(), num_samples=4, topk_sample_logprobs=2))
    names = promise.json()["sample_sequence_ids"]
    assert len(set(names)) == 4
    response = MESSAGES["SampleResponse"]()
    response.ParseFromString(caller.result(promise, Accept="application/x-protobuf").content)
    assert [list(memoryview(s.tokens).cast("i")) for s in response.sequences] == [[9, 9, 9]] * 4
    plain = caller.result(promise, Accept="application/json").json()
    assert [sequence["tokens"] for sequence in plain["sequences"]] == [[9, 9, 9]] * 4
    _, _, tokens, params, asked = next(call for call in caller.backend.calls if call[0] == "sample")
    assert tokens == [7, 8, 9]
    assert (params.max_tokens, params.temperature, params.stop) == (3, 0.7, None)
    assert (asked.num_samples, asked.topk_sample_logprobs) == (4, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_samples": 0},
        {"num_samples": 10**9},
        {"prompt": None},
        {"sampling_params": {"temperature": "hot"}},
        {"prompt_logprobs_last_n": 0},
    ],
)
def test_a_request_that_makes_no_sense_is_a_400(caller: Caller, changes: dict[str, Any]) -> None:
    refused = caller.post("asample", _sample(caller.sampler(), **changes))
    assert refused.status_code == 400
    assert next(iter(changes)) in refused.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": {"chunks": [{"type": "image", "data": "", "format": "png"}]}}, "image"),
        ({"prompt": {"chunks": [{"tokens": [1] * 65}]}}, "too long"),
        ({"target_prompt_logprobs": {"data": [1, 2], "dtype": "int64", "shape": [1, 1]}}, "2 numbers for the shape"),
    ],
)
def test_a_sample_that_cannot_be_drawn_fails_in_words(caller: Caller, changes: dict[str, Any], words: str) -> None:
    failed = caller.result(caller.post("asample", _sample(caller.sampler(), **changes))).json()
    assert failed["category"] == "user"
    assert words in failed["error"]


def test_a_sampler_of_a_checkpoint(caller: Caller) -> None:
    path = caller.checkpoint("sampler_weights")
    body = {"session_id": caller.session(), "sampling_session_seq_id": 1, "model_path": path}
    made = caller.post("create_sampling_session", body)
    sampler = made.json()["sampling_session_id"]
    assert caller.post("create_sampling_session", body).json() == made.json()
    found = caller.request("GET", f"/api/v1/samplers/{sampler}").json()
    assert found == {"sampler_id": sampler, "base_model": MODEL, "model_path": path}
    other = caller.post("create_sampling_session", {**body, "model_path": None, "base_model": MODEL})
    assert other.status_code == 400


def test_a_sampler_of_nothing(caller: Caller) -> None:
    session = caller.session()
    for body, status in (
        ({"model_path": "tinker://x/sampler_weights/y"}, 404),
        ({"model_path": "tinker://../../etc/passwd"}, 404),
        ({"base_model": "no/such"}, 400),
    ):
        refused = caller.post("create_sampling_session", {"session_id": session, "sampling_session_seq_id": 0, **body})
        assert refused.status_code == status
        assert next(iter(body.values())) in refused.json()["detail"]
