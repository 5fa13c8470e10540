"""Harnesses that evaluate what is served: they get the numbers of the model in process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from service.conformance import EVALUATORS, MODEL, ROOT, environment, environment_of
from service.serving import running
from service.tiny_chat_model import save_tiny_chat_model
from thumbs.clients.backend import Backend
from thumbs.clients.store import Store
from thumbs.config.model import ModelConfig
from thumbs.data.tokenizers import load_tokenizer
from thumbs.service.app import create_app

CONTEXT = 96
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is", " a banana"),
    ("Où est-il?", " là 漢字"),
    ("nearly as long as the context, " * 2, "and still whole"),
    ("", "from nothing"),
]


def _greedy_pair(folder: Path) -> tuple[str, str]:
    """A context and a letter that the model would write next."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), load_tokenizer(folder)
    for number in range(500):
        context = f"Question {number}:"
        with torch.no_grad():
            token = int(model(torch.tensor([tokenizer.encode(context)])).logits[0, -1].argmax())
        if tokenizer.decode([token]).isalnum() and tokenizer.decode([token]).isascii():
            return context, tokenizer.decode([token])
    raise AssertionError("no context is followed by a letter")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script prints of a tiny model."""
    sdk, scratch = environment_of(EVALUATORS), tmp_path_factory.mktemp("evaluators")
    folder = save_tiny_chat_model(scratch / "model", seed=4, context=CONTEXT)
    given = {"context": CONTEXT, "pairs": [_greedy_pair(folder), *PAIRS], "texts": [["All of it, even this: ✓ " * 3]]}
    store = Store(scratch / "store")
    backend = Backend(store, {MODEL: ModelConfig(name=str(folder), dtype="float32")})
    try:
        with running(create_app(backend, b"key" * 11, needs_token=False)) as url:
            command = [
                sdk.python,
                "-W",
                "ignore",
                "tests/service/evaluators_script.py",
                url,
                MODEL,
                folder,
                scratch / "logs",
            ]
            done = subprocess.run(
                [*command, json.dumps(given)],
                cwd=ROOT,
                env=environment(url, scratch / "hf") | {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "local"},
                capture_output=True,
                text=True,
                check=False,
                timeout=400,
            )
    finally:
        backend.close()
        store.close()
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(500)
@pytest.mark.parametrize("how", ["tokens", "texts", "several"])
def test_log_likelihoods_are_those_of_the_model(found: dict[str, Any], how: str) -> None:
    """Whether prompts are sent as tokens, as texts, or several at a time. A text cannot begin with a special token, as
    the harness has it for an empty context.
    """
    (pairs, texts), (own_pairs, own_texts) = found[how], found["in process"]
    assert len(pairs) == len(PAIRS) + (how != "texts")
    np.testing.assert_allclose([each[0] for each in pairs], [each[0] for each in own_pairs[: len(pairs)]], atol=1e-4)
    greedy = [each[1] for each in pairs]
    assert greedy == [each[1] for each in own_pairs[: len(pairs)]] == [True] + [False] * (len(pairs) - 1)
    np.testing.assert_allclose(texts, own_texts if texts else [], atol=1e-4)


@pytest.mark.timeout(500)
def test_greedy_replies_are_those_of_the_model(found: dict[str, Any]) -> None:
    assert found["completions"] == found["completions here"]
    assert len(found["chats"]) == 2
    assert all(found["chats"])


@pytest.mark.timeout(500)
def test_inspect_reads_replies_with_their_logprobs(found: dict[str, Any]) -> None:
    told = found["inspect"]
    assert bytes(byte for row in told["rows"] for byte in row["bytes"]).decode("utf-8", "replace") == told["reply"]
    for row in told["rows"]:
        assert len(row["top_logprobs"]) == 2
        assert row["logprob"] == max(other["logprob"] for other in row["top_logprobs"])
    assert told["score"] == 1.0
