"""Prompts that are repeated with their logprobs, against transformers on the same weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import AutoModelForCausalLM

from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients.backend import Backend
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import load_tokenizer
from thumbs.service.app import create_app

TEXT = "Où est-il? 漢"
CONTEXT = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template reads a variable."""
    made = save_tiny_chat_model(tmp_path_factory.mktemp("model"), seed=3, context=CONTEXT)
    file = made / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings["chat_template"] = settings["chat_template"].replace(
        "assistant\n' }}{% endif %}", "assistant\n' }}{% if mood %}{{ mood }}{% endif %}{% endif %}"
    )
    file.write_text(json.dumps(settings))
    return made


@pytest.fixture(scope="module")
def http(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    store = Store(tmp_path_factory.mktemp("store"))
    backend = Backend(store, {"m": ModelConfig(name=str(folder), dtype="float32")})
    with TestClient(create_app(backend, b"k" * 32, needs_token=False)) as client:
        yield client
    backend.close()
    store.close()


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def _logprobs(theirs: Any, tokens: list[int]) -> np.ndarray:
    """Of every token after the first [N - 1, V], nats."""
    with torch.no_grad():
        return theirs(torch.tensor([tokens])).logits[0, :-1].log_softmax(-1).numpy()


def _ask(http: TestClient, **changes: Any) -> dict[str, Any]:
    answer = http.post("/v1/completions", json={"model": "m", "temperature": 0, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_prompt_has_the_logprobs_of_the_model(http: TestClient, folder: Path, theirs: Any) -> None:
    """As text, as tokens, and several at once; the greedy token is the likeliest of all."""
    encode = load_tokenizer(folder).encode
    tokens, other = encode(TEXT), [256, *encode("A much longer one, to be read beside the other")]
    forms = [
        (TEXT, [tokens]),
        (tokens, [tokens]),
        ([tokens, other], [tokens, other]),
        ([TEXT, "ab"], [tokens, encode("ab")]),
    ]
    for prompt, expected in forms:
        reply = _ask(http, prompt=prompt, echo=True, logprobs=3, max_tokens=1)
        assert [choice["index"] for choice in reply["choices"]] == list(range(len(expected)))
        assert reply["usage"]["prompt_tokens"] == sum(map(len, expected))
        for choice, read in zip(reply["choices"], expected, strict=True):
            told, true = choice["logprobs"], _logprobs(theirs, read)
            assert {len(column) for column in told.values()} == {len(read) + 1}
            assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
            own = true[np.arange(len(true)), read[1:]]
            np.testing.assert_allclose(told["token_logprobs"][1:-1], own, atol=1e-4)
            for place, top in enumerate(told["top_logprobs"][1:-1]):
                greedy = int(true[place].argmax()) == read[place + 1]
                assert (told["token_logprobs"][place + 1] == max(top.values())) == greedy
                likely = np.sort(true[place])[::-1][:3]
                np.testing.assert_allclose(sorted(top.values(), reverse=True)[:3], likely, atol=1e-4)


def test_the_prompt_alone(http: TestClient, folder: Path) -> None:
    tokens = load_tokenizer(folder).encode(TEXT)
    full = _ask(http, prompt=TEXT, echo=True, logprobs=1, max_tokens=2)["choices"][0]
    alone = _ask(http, prompt=TEXT, echo=True, logprobs=1, max_tokens=0)
    choice = alone["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (TEXT, "length")
    assert alone["usage"] == {"prompt_tokens": len(tokens), "completion_tokens": 0, "total_tokens": len(tokens)}
    for name, column in choice["logprobs"].items():
        assert column == full["logprobs"][name][: len(tokens)]
    without = _ask(http, prompt=TEXT, echo=True, max_tokens=2)["choices"][0]
    assert (without["text"], without["logprobs"]) == (full["text"], None)
    assert full["text"].startswith(TEXT)
    assert _ask(http, prompt=TEXT, max_tokens=2)["choices"][0]["text"] == full["text"].removeprefix(TEXT)
    assert _ask(http, prompt=TEXT, max_tokens=0, logprobs=1)["choices"][0] == {
        "index": 0,
        "text": "",
        "finish_reason": "length",
        "logprobs": {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []},
    }


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("asked", [{"logprobs": 2}, {"logprobs": 0}, {}])
def test_a_stream_repeats_the_same(http: TestClient, n: int, asked: dict[str, int]) -> None:
    body = {"model": "m", "prompt": TEXT, "n": n, "seed": 5, "max_tokens": 6, "temperature": 1.3, **asked}
    for echo in (True, False):
        whole = http.post("/v1/completions", json={**body, "echo": echo}).json()
        lines = http.post("/v1/completions", json={**body, "echo": echo, "stream": True}).text.split("\n\n")
        events = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
        for choice in whole["choices"]:
            own = [event for event in events if event["index"] == choice["index"]]
            assert "".join(event["text"] for event in own) == choice["text"]
            for name, column in (choice["logprobs"] or {}).items():
                assert [row for event in own if event["logprobs"] for row in event["logprobs"][name]] == column


def test_a_stream_of_a_chat_tells_the_same(http: TestClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20, "seed": 2, "n": 2}
    body |= {"logprobs": True, "top_logprobs": 4, "temperature": 1.5}
    whole = http.post("/v1/chat/completions", json=body).json()
    lines = http.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    for choice in whole["choices"]:
        rows = choice["logprobs"]["content"]
        own = [event for event in events if event["index"] == choice["index"]]
        assert [row for event in own for row in (event["logprobs"] or {"content": []})["content"]] == rows
        joined = bytes(byte for row in rows for byte in row["bytes"])
        assert joined.decode("utf-8", "replace") == choice["message"]["content"]
        for row in rows:
            assert len(row["top_logprobs"]) in (4, 5)
            assert {key: row[key] for key in ("token", "logprob", "bytes")} in row["top_logprobs"]


def test_a_prompt_of_the_whole_context(http: TestClient) -> None:
    """It can still be looked at, and a harness asks for one token after it; more than that has no room."""
    for tokens, max_tokens, status in ((CONTEXT, 0, 200), (CONTEXT, 1, 200), (CONTEXT, 2, 400), (CONTEXT + 1, 0, 400)):
        body = {"model": "m", "prompt": [5] * tokens, "echo": True, "logprobs": 1, "max_tokens": max_tokens}
        answer = http.post("/v1/completions", json=body)
        assert answer.status_code == status
        if status == 400:
            assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_tokens_that_the_model_does_not_know(http: TestClient) -> None:
    for token in (-1, 10**6, 2**40, 2**70):
        answer = http.post("/v1/completions", json={"model": "m", "prompt": [1, token]})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "prompt"


def test_variables_of_the_template(http: TestClient) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}

    def read(**variables: Any) -> Any:
        return http.post("/v1/chat/completions", json={**body, "chat_template_kwargs": variables})

    plain = read().json()["usage"]["prompt_tokens"]
    assert read(mood="gay").json()["usage"]["prompt_tokens"] == plain + 3
    assert read(mood="").json()["usage"]["prompt_tokens"] == plain
    refused = read(mode="gay")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "chat_template_kwargs"
    assert "mode" in refused.json()["error"]["message"]
