"""Text and logprobs of replies, whole and in pieces."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients.types import SampledSequence, TopkLogprobs
from thumbs.data.hf_tokenizer import HfTokenizer
from thumbs.data.tokenizers import ByteTokenizer, Tokenizer
from thumbs.service.completions import Shape
from thumbs.service.speech import DrawnToken, drawn, heard

UNDECODABLE = b"ok \xf0\x9f\x92 \x80\x80 w\xc3"
TEXTS = ["wörld 😀!", "", "\ufffd", "a" * 50, "漢字é🦄", "a\u0301 \u200d"]


def _sequence(text: bytes, stop: bool = True, others: int = 1) -> SampledSequence:
    """Bytes as tokens; at each place the token itself is the likeliest, or where there are two, the third."""
    tokens = np.array([*text, *([ByteTokenizer.EOS] if stop else [])], np.int32)
    others_ids = np.tile(np.int32([200, 201]), (len(tokens), 1))
    ids = np.concatenate([tokens[:, None], others_ids[:, 1:]], 1) if others == 1 else others_ids
    top = TopkLogprobs(ids, np.tile(np.float32([-0.5, -2.0]), (len(tokens), 1)))
    logprobs = np.full(len(tokens), -0.5 if others == 1 else -3.0, np.float32)
    return SampledSequence("stop" if stop else "length", tokens_np=tokens, logprobs_np=logprobs, topk_logprobs_np=top)


def _shape(chat: bool = True, **changes: Any) -> Shape:
    return Shape(**{"chat": chat, "model": "m", "tokenizer": ByteTokenizer(), "stop": (), "logprobs": None, **changes})


def _whole(shape: Shape, sequence: SampledSequence, prompt: list[DrawnToken] | None = None) -> dict[str, Any]:
    return shape.whole([(sequence, prompt)], 3)["choices"][0]


def _text(choice: dict[str, Any]) -> str:
    return choice["message"]["content"] if "message" in choice else choice["text"]


def _streamed(shape: Shape, sequence: SampledSequence) -> list[dict[str, Any]]:
    """The choices of all events, as a client gets them."""
    speech = shape.speech()
    said = [shape.said(0, speech.add(each)) for each in drawn(sequence)]
    events = b"".join([shape.begin(0), *said, shape.said(0, speech.end(sequence)), shape.end(0, sequence)])
    return [json.loads(event.removeprefix("data: "))["choices"][0] for event in events.decode().split("\n\n")[:-1]]


def test_a_reply_ends_before_its_stop() -> None:
    shape, sequence = _shape(stop=["!", "zz"]), _sequence("wörld! and on".encode())
    reply = shape.whole([(sequence, None)], 3)
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "wörld"}
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 15, "total_tokens": 18}


@pytest.mark.parametrize("stop", [(), ["!"], ["rld"], ["字é", "nowhere"]])
@pytest.mark.parametrize("logprobs", [None, 0, 2])
@pytest.mark.parametrize("chat", [False, True])
def test_the_pieces_of_a_stream_are_the_reply(chat: bool, logprobs: int | None, stop: list[str]) -> None:
    """Text, logprobs and end."""
    shape = _shape(chat, logprobs=logprobs, stop=stop)
    for raw in [*(text.encode() for text in TEXTS), UNDECODABLE]:
        for ended in (False, True):
            sequence = _sequence(raw, ended)
            whole, choices = _whole(shape, sequence), _streamed(shape, sequence)
            parts = [choice["delta"].get("content", "") if chat else choice["text"] for choice in choices]
            assert "".join(parts) == _text(whole)
            ends = [choice["finish_reason"] for choice in choices]
            assert ends == [None] * (len(choices) - 1) + ["stop" if ended else "length"]
            told = [choice["logprobs"] for choice in choices if choice.get("logprobs")]
            if logprobs is None:
                assert told == []
                assert whole["logprobs"] is None
            for column in ["content"] if chat and logprobs is not None else (whole["logprobs"] or []):
                assert [row for each in told for row in each[column]] == whole["logprobs"][column]


@pytest.mark.parametrize("stop", [["!"], ["lo th"], ["lo thing", "there"], ["nowhere"], ["llo", "hello"]])
def test_a_stream_never_tells_what_becomes_a_stop(stop: list[str]) -> None:
    """Token by token, what has been told is the beginning of the reply that the other way of asking gives."""
    sequence, shape = _sequence(b"hello there! and on"), _shape(stop=stop)
    whole, speech, told = _text(_whole(shape, sequence)), shape.speech(), ""
    for each in drawn(sequence):
        told += speech.add(each).text
        assert whole.startswith(told)
    assert told + speech.end(sequence).text == whole


@pytest.mark.parametrize("stop", [(), ["!"], ["rl"]])
def test_bytes_of_a_chat_are_those_of_its_content(stop: list[str]) -> None:
    """Also where its parts are not characters; marks and the end are not part of it."""
    for raw in [*(text.encode() for text in TEXTS), UNDECODABLE]:
        marked = _sequence(raw, others=2)
        tokens = np.array([*raw[:3], ByteTokenizer.SEP, *raw[3:], ByteTokenizer.EOS], np.int32)
        sequence = SampledSequence("stop", tokens_np=tokens, logprobs_np=np.zeros(len(tokens), np.float32))
        for each in (marked, sequence):
            choice = _whole(_shape(logprobs=0, stop=stop), each)
            own = bytes(byte for row in choice["logprobs"]["content"] for byte in row["bytes"])
            assert own.decode("utf-8", "replace") == _text(choice)
            assert stop or own == raw


def test_names_of_tokens_that_are_no_text() -> None:
    columns = _whole(_shape(False, logprobs=0), _sequence("é".encode(), others=2))["logprobs"]
    assert columns["tokens"] == ["bytes:\\xc3", "bytes:\\xa9"]
    rows = _whole(_shape(logprobs=2), _sequence("é".encode(), others=2))["logprobs"]["content"]
    assert [row["token"] for row in rows] == ["\\xc3", "\\xa9"]
    assert [other["bytes"] for other in rows[0]["top_logprobs"]] == [[200], [201], [0xC3]]


@pytest.mark.parametrize("asked", [0, 1, 2])
def test_the_sampled_token_is_among_its_alternatives(asked: int) -> None:
    """At the end where it is none of the likeliest; every alternative that was asked for is there."""
    for others, expected in ((1, max(asked, 1)), (2, asked + 1)):
        columns = _whole(_shape(False, logprobs=asked), _sequence(b"ab", stop=False, others=others))["logprobs"]
        for token, logprob, top in zip(
            columns["tokens"], columns["token_logprobs"], columns["top_logprobs"], strict=True
        ):
            assert len(top) == expected
            assert top[token] == logprob
    rows = _whole(_shape(logprobs=2), _sequence(b"ab", stop=False, others=2))["logprobs"]["content"]
    assert [[other["logprob"] for other in row["top_logprobs"]] for row in rows] == [[-0.5, -2.0, -3.0]] * 2


class _Twins(ByteTokenizer):
    """Bytes 97, 65 and 200 are all written a."""

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        return b"a" if token in (97, 65, 200) else super().token_bytes(token, first)


def test_alternatives_with_one_text_stay_several() -> None:
    sequence = SampledSequence(
        "length",
        tokens_np=np.int32([65]),
        logprobs_np=np.float32([-2.0]),
        topk_logprobs_np=TopkLogprobs(np.int32([[97, 98, 200]]), np.float32([[-0.25, -1.0, -1.5]])),
    )
    columns = _whole(_shape(False, logprobs=3, tokenizer=_Twins()), sequence)["logprobs"]
    assert columns["tokens"] == ["a"]
    assert columns["top_logprobs"] == [{"token_id:97": -0.25, "b": -1.0, "token_id:200": -1.5, "a": -2.0}]
    chat = _whole(_shape(logprobs=3, tokenizer=_Twins()), sequence)["logprobs"]["content"][0]
    assert [other["token"] for other in chat["top_logprobs"]] == ["a", "b", "a", "a"]


def test_offsets_are_places_in_the_text() -> None:
    """The place of the character that a token belongs to, also beside what is not a character."""
    assert _offsets("aé😀b".encode()) == [0, 1, 1, 2, 2, 2, 2, 3]
    assert _offsets(b"a\xf0\x9fb\xe9") == [0, 1, 1, 2, 3]
    assert _offsets(b"\x80\x80a") == [0, 1, 2]
    assert _offsets("\ufffda".encode()) == [0, 0, 0, 1]


def _offsets(raw: bytes) -> list[int]:
    choice = _whole(_shape(False, logprobs=0), _sequence(raw))
    for number, offset in enumerate(choice["logprobs"]["text_offset"]):
        assert offset < len(choice["text"])
        assert choice["text"][:offset] == raw[:number].decode("utf-8", "replace")[:offset]
    return choice["logprobs"]["text_offset"]


def test_a_prompt_is_repeated_with_every_token() -> None:
    """Harnesses count the tokens of prompt and reply, so special ones are told too, and the end."""
    tokens = [ByteTokenizer.BOS, *"é!".encode()]
    prompt = heard(tokens, [None, -1.0, -2.0, -3.0], [None, [(5, -0.5)], [(0xA9, -2.0)], [(7, -0.1)]])
    choice = _whole(_shape(False, logprobs=1, stop=["!"]), _sequence(b"ab!"), prompt)
    assert choice["text"] == "é!ab"  # a stop in the prompt ends nothing
    columns = choice["logprobs"]
    assert columns["tokens"] == ["[BOS]", "bytes:\\xc3", "bytes:\\xa9", "!", "a", "b", "!", "[EOS]"]
    assert columns["token_logprobs"] == [None, -1.0, -2.0, -3.0, -0.5, -0.5, -0.5, -0.5]
    assert columns["text_offset"] == [0, 0, 0, 1, 2, 3, 4, 5]
    assert columns["top_logprobs"][:3] == [None, {"\x05": -0.5, "bytes:\\xc3": -1.0}, {"bytes:\\xa9": -2.0}]


def test_a_logprob_of_minus_infinity_is_a_number() -> None:
    sequence = SampledSequence("length", tokens_np=np.int32([97]), logprobs_np=np.float32([-np.inf]))
    for chat in (False, True):
        assert "-9999.0" in json.dumps(_whole(_shape(chat, logprobs=0), sequence), allow_nan=False)


@pytest.mark.parametrize("kind", ["byte", "byte-level"])
def test_any_cut_of_any_bytes(kind: str, tmp_path: Path) -> None:
    """Random bytes, in any pieces: the text is that of all of them together."""
    tokenizer: Tokenizer = ByteTokenizer() if kind == "byte" else HfTokenizer(save_tiny_chat_model(tmp_path))
    source = random.Random(0)
    for _ in range(50):
        raw = bytes(source.choice(b"a !\x80\xbf\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xff") for _ in range(20))
        tokens = (
            list(raw)
            if kind == "byte"
            else [i for byte in raw for i in range(256) if tokenizer.token_bytes(i) == bytes([byte])]
        )
        shape = _shape(False, logprobs=0, tokenizer=tokenizer)
        sequence = SampledSequence("length", tokens_np=np.array(tokens, np.int32), logprobs_np=np.zeros(20, np.float32))
        assert _whole(shape, sequence)["text"] == raw.decode("utf-8", "replace") == tokenizer.decode(tokens)
        speech = shape.speech()
        told = "".join(speech.add(DrawnToken(token, 0.0)).text for token in tokens)
        assert told + speech.end(sequence).text == raw.decode("utf-8", "replace")
