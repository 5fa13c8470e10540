"""The API of chat programs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from fake_backend import MODEL
from service_caller import Caller

from thumbs.clients.types import SampledSequence, TopkLogprobs
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.service.completions import Shape, Speech

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def _sequence(text: bytes, stop: bool = True) -> SampledSequence:
    tokens = np.array([*text, *([ByteTokenizer.EOS] if stop else [])], np.int32)
    top = TopkLogprobs(np.stack([tokens, tokens], 1), np.tile(np.float32([-0.5, -2.0]), (len(tokens), 1)))
    return SampledSequence(
        "stop" if stop else "length",
        tokens_np=tokens,
        logprobs_np=np.full(len(tokens), -0.5, np.float32),
        topk_logprobs_np=top,
    )


def _shape(chat: bool = True, **changes: Any) -> Shape:
    return Shape(**{"chat": chat, "model": "m", "tokenizer": ByteTokenizer(), "stop": (), "logprobs": None, **changes})


def test_a_reply_ends_before_its_stop() -> None:
    reply = _shape(stop=["!", "zz"]).whole([_sequence("wörld! and on".encode())], 3)
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "wörld"}
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 15, "total_tokens": 18}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("text", ["wörld 😀!", "", "\ufffd", "a" * 50])
def test_the_pieces_of_a_stream_are_the_reply(chat: bool, text: str) -> None:
    sequence, shape = _sequence(text.encode(), stop=False), _shape(chat)
    speech = Speech(shape)
    said = [shape.said(0, speech.add(token)) for token in sequence.tokens]
    told = [shape.begin(0), *said, shape.said(0, speech.end(sequence)), shape.end(0, sequence)]
    events = b"".join(told).decode().split("\n\n")
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events[:-1]]
    parts = [choice["delta"].get("content", "") if chat else choice["text"] for choice in choices]
    assert "".join(parts) == text
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert len(parts) >= len(text)


@pytest.mark.parametrize("stop", [["!"], ["lo th"], ["lo thing", "there"], ["nowhere"], ["llo", "hello"]])
def test_a_stream_never_tells_what_becomes_a_stop(stop: list[str]) -> None:
    """Token by token, what has been told is the beginning of the reply that the other way of asking gives."""
    sequence, shape = _sequence(b"hello there! and on"), _shape(stop=stop)
    whole = shape.whole([sequence], 1)["choices"][0]["message"]["content"]
    speech, told = Speech(shape), ""
    for token in sequence.tokens:
        told += speech.add(token)
        assert whole.startswith(told)
    assert told + speech.end(sequence) == whole


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
    body = {**CHAT, "prompt": ["ab", "c"][: 1 if "chat" in path else 2], "max_tokens": 5, "n": 2, "stream": True}
    events = caller.http.post(f"/v1/{path}", json={**body, "stream_options": {"include_usage": True}}).text.split(
        "\n\n"
    )
    assert events[-2:] == ["data: [DONE]", ""]
    last = json.loads(events[-3].removeprefix("data: "))
    read, drawn = (4, 10) if "chat" in path else (3, 20)
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
    assert "usage" not in caller.http.post(f"/v1/{path}", json=body).text


def test_logprobs_in_both_shapes() -> None:
    chat = _shape(logprobs=2).whole([_sequence(b"a")], 1)["choices"][0]["logprobs"]["content"]
    assert chat[0]["token"] == "a"  # noqa: S105
    assert chat[0]["bytes"] == [97]
    assert [top["logprob"] for top in chat[0]["top_logprobs"]] == [-0.5, -2.0]
    text = _shape(chat=False, logprobs=2).whole([_sequence(b"a")], 1)["choices"][0]["logprobs"]
    assert text["tokens"] == ["a", "[EOS]"]
    assert text["token_logprobs"] == [-0.5, -0.5]


def test_a_chat(caller: Caller) -> None:
    body = {**CHAT, "max_tokens": 4, "n": 2, "stop": ["x"], "temperature": 0.5, "user": "somebody"}
    reply = caller.http.post("/v1/chat/completions", json=body).json()
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]
    _, sampler, tokens, params, _ = next(call for call in caller.backend.calls if call[0] == "sample")
    assert tokens == [ByteTokenizer.BOS, *b"Hi", ByteTokenizer.SEP]
    assert (params.max_tokens, params.temperature) == (4, 0.5)
    assert params.stop == ["x", "[EOS]"]  # a list of texts takes the place of the model's own end
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
    ("changes", "status", "words"),
    [
        ({"model": "no/such"}, 404, "supported"),
        ({"model": "tinker://a/weights/b"}, 404, "tinker://a/weights/b"),
        ({"messages": []}, 400, "messages"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "image_url"),
        ({"temperature": -1}, 400, "temperature"),
    ],
)
def test_refusals_have_the_shape_that_chat_programs_read(
    caller: Caller, changes: dict[str, Any], status: int, words: str
) -> None:
    refused = caller.http.post("/v1/chat/completions", json={**CHAT, **changes})
    assert refused.status_code == status
    assert words in refused.json()["error"]["message"]


def test_a_full_queue(caller: Caller) -> None:
    caller.backend.full = True
    assert caller.http.post("/v1/chat/completions", json=CHAT).status_code == 429
