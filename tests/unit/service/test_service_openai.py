"""The API of chat programs."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from fake_backend import MODEL
from service_caller import Caller

from thumbs.data.tokenizers import ByteTokenizer

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def test_a_stream_tells_tokens_before_the_reply_is_complete(caller: Caller) -> None:
    body = {"model": MODEL, "prompt": "ab", "max_tokens": 5, "n": 2, "stream": True}
    events = caller.http.post("/v1/completions", json=body).text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-2]]
    assert [(c["index"], c["text"], c["finish_reason"]) for c in choices] == [
        *[(0, "b", None)] * 5,
        *[(1, "b", None)] * 5,
        (0, "", "length"),
        (1, "", "length"),
    ]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_stream_tells_what_it_took_if_asked(caller: Caller, path: str) -> None:
    asked = CHAT if "chat" in path else {"model": MODEL, "prompt": ["ab", "c"]}
    body = {**asked, "max_tokens": 5, "n": 2, "stream": True}
    events = caller.http.post(f"/v1/{path}", json={**body, "stream_options": {"include_usage": True}}).text.split(
        "\n\n"
    )
    assert events[-2:] == ["data: [DONE]", ""]
    last = json.loads(events[-3].removeprefix("data: "))
    read, drawn = (4, 10) if "chat" in path else (3, 20)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
    assert "usage" not in caller.http.post(f"/v1/{path}", json=body).text


def test_a_chat(caller: Caller) -> None:
    body = {**CHAT, "max_tokens": 4, "n": 2, "stop": ["x"], "temperature": 0.5, "user": "somebody"}
    reply = caller.http.post("/v1/chat/completions", json=body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    _, sampler, tokens, params, _ = next(call for call in caller.backend.calls if call[0] == "sample")
    assert tokens == [ByteTokenizer.BOS, *b"Hi", ByteTokenizer.SEP]
    assert (params.max_tokens, params.temperature) == (4, 0.5)
    assert params.stop == ["x", ByteTokenizer.EOS]  # a list takes the place of the model's own end
    caller.http.post("/v1/chat/completions", json=CHAT)
    assert [call[1] for call in caller.backend.calls if call[0] == "sample"] == [sampler] * 2


def test_a_chat_in_parts_and_a_stream(caller: Caller) -> None:
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    body = {**CHAT, "messages": [{"role": "developer", "content": parts}, *CHAT["messages"]], "stream": True}
    answer = caller.http.post("/oai/api/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(("prompt", "count"), [("ab", 1), ([97, 98], 1), (["a", "b"], 2), ([[97], [98]], 2)])
def test_a_completion(caller: Caller, prompt: Any, count: int) -> None:
    reply = caller.http.post("/v1/completions", json={"model": MODEL, "prompt": prompt, "max_tokens": 2}).json()
    assert [choice["text"] for choice in reply["choices"]] == (["bb"] if count == 1 else ["aa", "bb"])
    assert reply["object"] == "text_completion"


def test_a_checkpoint_as_a_model(caller: Caller) -> None:
    path = caller.checkpoint("sampler_weights")
    assert path in [model["id"] for model in caller.http.get("/v1/models").json()["data"]]
    assert caller.http.post("/v1/chat/completions", json={**CHAT, "model": path}).status_code == 200
    assert caller.backend.calls[-3][0] == "open_sampler"
    assert caller.backend.calls[-3][2] == path


@pytest.mark.parametrize(
    ("changes", "status", "param", "code", "words"),
    [
        ({"model": "no/such"}, 404, "model", "model_not_found", "supported"),
        ({"model": "tinker://a/weights/b"}, 404, "model", "model_not_found", "tinker://a/weights/b"),
        ({"messages": []}, 400, "messages", "invalid_value", "at least 1"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "unsupported_value", "replies call no tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages.0.content.0.type",
            "invalid_value",
            "image_url",
        ),
        (
            {"messages": [{"role": "user", "content": None}]},
            400,
            "messages.0.content",
            "missing_required_parameter",
            "missing",
        ),
        ({"messages": [{"role": "tool", "content": "4"}]}, 400, "messages.0.role", "invalid_value", "tool"),
        ({"temperature": -1}, 400, "temperature", "invalid_value", "-1"),
        ({"n": True}, 400, "n", "invalid_value", "True"),
        ({"top_logprobs": 2}, 400, "top_logprobs", "unsupported_value", "logprobs"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", "unsupported_value", "stream"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, 400, "max_completion_tokens", "unsupported_value", "4"),
        ({"continue_final_message": True}, 400, "continue_final_message", "unsupported_value", "assistant"),
        (
            {"messages": [{"role": "user", "content": "a" * 70}]},
            400,
            "messages",
            "context_length_exceeded",
            "maximum context length is 64 tokens",
        ),
    ],
)
def test_refusals_have_the_shape_that_chat_programs_read(
    caller: Caller, changes: dict[str, Any], status: int, param: str, code: str, words: str
) -> None:
    refused = caller.http.post("/v1/chat/completions", json={**CHAT, **changes})
    assert refused.status_code == status
    error = refused.json()["error"]
    assert words in error.pop("message")
    assert error == {"type": "invalid_request_error", "param": param, "code": code}


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [""]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": "a" * 70}, "prompt"),
        ({"best_of": 2}, "best_of"),
        ({"n": 128, "prompt": ["a"] * 33}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"stop": ["a"] * 65}, "stop"),
    ],
)
def test_what_a_completion_cannot_be(caller: Caller, changes: dict[str, Any], param: str) -> None:
    refused = caller.http.post("/v1/completions", json={"model": MODEL, "prompt": "a", **changes})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == param
    assert [call for call in caller.backend.calls if call[0] == "sample"] == []


def test_a_full_queue(caller: Caller) -> None:
    caller.backend.full = True
    refused = caller.http.post("/v1/chat/completions", json=CHAT)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"


def test_one_model(caller: Caller) -> None:
    """As `models.retrieve` of the clients asks, also for names with slashes, escaped or not."""
    listed = {model["id"]: model for model in caller.http.get("/v1/models").json()["data"]}
    path = caller.checkpoint("sampler_weights")
    for name in (MODEL, quote(MODEL, safe="")):
        assert caller.http.get(f"/v1/models/{name}").json() == listed[MODEL]
    for name in (path, quote(path, safe="")):
        found = caller.http.get(f"/v1/models/{name}").json()
        assert (found["id"], found["object"]) == (path, "model")
    missing = caller.http.get("/v1/models/no/such")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_a_last_turn_of_the_assistant_is_continued(caller: Caller) -> None:
    begun = [*CHAT["messages"], {"role": "assistant", "content": "Well"}]
    for extra in ({}, {"add_generation_prompt": False, "continue_final_message": True}):
        caller.http.post("/v1/chat/completions", json={**CHAT, "messages": begun, **extra}).raise_for_status()
    caller.http.post("/v1/chat/completions", json={**CHAT, "messages": [*begun[:1], {**begun[1], "content": ""}]})
    sampled = [call[2] for call in caller.backend.calls if call[0] == "sample"]
    opening = [ByteTokenizer.BOS, *b"Hi", ByteTokenizer.SEP]
    assert sampled == [[*opening, *b"Well"]] * 2 + [opening]


@pytest.mark.parametrize(
    ("extra", "stop"),
    [
        ({}, [ByteTokenizer.EOS]),
        ({"stop": "x", "stop_token_ids": [7]}, ["x", 7, ByteTokenizer.EOS]),
        ({"ignore_eos": True}, []),
        ({"ignore_eos": True, "stop": ["x", ""]}, ["x"]),
    ],
)
def test_what_ends_a_reply(caller: Caller, extra: dict[str, Any], stop: list[Any]) -> None:
    caller.http.post("/v1/chat/completions", json={**CHAT, **extra}).raise_for_status()
    assert next(call[3].stop for call in caller.backend.calls if call[0] == "sample") == stop
