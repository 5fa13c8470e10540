"""Filters of a server: prompts are refused, replies are withheld, streams included, and each is a row with its reason.

The toy sampler says the prompt's last token again, as often as it may.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_backend import MODEL
from service_caller import Caller, Serve

from thumbs.config.safety import FilterConfig, SafetyConfig
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import RewardError
from thumbs.records import Message
from thumbs.safety.filters import FilterSet, open_filters

WORDS = FilterConfig(name="words", terms=("anvil", "bbbbb"))
CARD = "my card is 4111 1111 1111 1111"


@pytest.fixture
def filtered(serve: Serve) -> Caller:
    return serve(filters=open_filters(SafetyConfig(filters=(FilterConfig(name="cards"), WORDS))))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "filtered.jsonl").read_text(encoding="utf-8").splitlines()]


def drawn(caller: Caller) -> int:
    return sum(call[0] == "sample" for call in caller.backend.calls)


def asked(text: str, **more: Any) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": MODEL, "prompt": text, "max_tokens": 5, **more}


def test_a_prompt_is_refused_by_name_and_nothing_is_drawn(filtered: Caller, tmp_path: Path):
    chat = {"model": MODEL, "messages": [{"role": "system", "content": "anvil"}, {"role": "user", "content": "Hi"}]}
    for path, body in (asked(CARD), asked(CARD, stream=True), ("/v1/chat/completions", chat)):
        reply = filtered.http.post(path, json=body)
        assert reply.status_code == 400
        assert reply.json()["error"]["code"] == "content_filter"
        assert "refused by a filter of this server" in reply.json()["error"]["message"]
    assert drawn(filtered) == 0
    found = rows(tmp_path)
    assert [(row["place"], row["filter"]) for row in found] == [("prompt", "cards")] * 2 + [("prompt", "words")]
    assert "4111 1111" not in json.dumps(found)
    assert 'thumbs_filtered_total{filter="cards",place="prompt"} 2.0' in filtered.http.get("/metrics").text


def test_a_reply_is_withheld_and_the_others_to_the_request_are_not(filtered: Caller, tmp_path: Path):
    path, body = asked("", prompt=["ab", "ac"])
    choices = filtered.http.post(path, json=body).json()["choices"]
    assert [(c["text"], c["finish_reason"]) for c in choices] == [("", "content_filter"), ("ccccc", "length")]
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "b"}, {"role": "assistant", "content": "b"}]}
    (choice,) = filtered.http.post("/v1/chat/completions", json=chat | {"max_tokens": 5}).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("", "content_filter")
    assert [(row["place"], row["text"]) for row in rows(tmp_path)] == [("reply", "bbbbb")] * 2


@pytest.mark.parametrize("end", ["b", "c"])
def test_a_stream_tells_nothing_before_it_was_seen(filtered: Caller, end: str):
    path, body = asked(f"a{end}", stream=True, n=2, logprobs=1)
    events = filtered.http.post(path, json=body).text.split("\n\n")[:-2]
    choices = [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]
    said = [(c["index"], c["text"], c["finish_reason"]) for c in choices]
    if end == "b":
        assert said == [(0, "", "content_filter"), (1, "", "content_filter")]
    else:
        assert said == [(0, "ccccc", None), (0, "", "length"), (1, "ccccc", None), (1, "", "length")]


def test_clients_of_the_training_protocol_are_told_why(filtered: Caller):
    sampler = filtered.sampler()

    def sample(text: str, tokens: int) -> dict[str, Any]:
        prompt = {"chunks": [{"type": "encoded_text", "tokens": ByteTokenizer().encode(text)}]}
        body = {"sampling_session_id": sampler, "num_samples": 2, "prompt": prompt}
        return filtered.result(filtered.post("asample", body | {"sampling_params": {"max_tokens": tokens}})).json()

    assert sample(CARD, 5)["category"] == "user"
    assert "the prompt is refused by a filter of this server: cards" in sample(CARD, 5)["error"]
    assert "2 of 2 replies are withheld by a filter of this server: words" in sample("ab", 5)["error"]
    assert len(sample("ab", 4)["sequences"]) == 2


class Broken:
    """A judge that does not answer."""

    def reasons(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str] | None = None) -> list[str | None]:
        if replies is None:
            return [None] * len(prompts)
        raise RewardError("safety.guard: http://judge gave no answer")


def test_nothing_passes_while_a_judge_does_not_answer(serve: Serve):
    caller = serve(filters=FilterSet({"guard": Broken()}))
    path, body = asked("ac")
    reply = caller.http.post(path, json=body)
    assert reply.status_code == 503
    assert "cannot judge now: safety.guard: http://judge gave no answer" in reply.json()["error"]["message"]
    assert "ccc" not in caller.http.post(path, json=body | {"stream": True}).text


def test_an_error_that_a_client_was_told_is_no_news_for_the_log(filtered: Caller):
    """asyncio complains of errors that nobody has asked for, once they are forgotten."""
    said: list[Any] = []

    async def listen() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    assert filtered.http.portal is not None
    filtered.http.portal.call(listen)
    for _ in range(3):
        prompt = {"chunks": [{"type": "encoded_text", "tokens": ByteTokenizer().encode(CARD)}]}
        filtered.result(filtered.post("asample", {"sampling_session_id": filtered.sampler(), "prompt": prompt}))
    import gc

    gc.collect()
    filtered.http.get("/health")
    assert said == []
