"""What the conformance cases have in common. README.md says how to run them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tinker import types

URL = os.environ["TINKER_BASE_URL"]
MODEL = os.environ["THUMBS_CASE_MODEL"]
RATE = 1e-2
TOLERANCE = float(os.environ.get("THUMBS_CASE_TOLERANCE", "0.02"))
"""Largest difference of two logprobs that are to be the same, nats."""


def trainer(service: Any, seed: int = 1, rank: int = 8, **options: Any) -> Any:
    """A fresh training client."""
    return service.create_lora_training_client(base_model=MODEL, rank=rank, seed=seed, **options)


def datum(text: str = "hello there", weights: list[float] | None = None, **inputs: Any) -> types.Datum:
    """Bytes of a text as tokens, to be predicted from each other; tokens are ids below 256 in every case model."""
    tokens = list(text.encode())
    given = inputs or {"weights": weights or [1.0] * (len(tokens) - 1)}
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={"target_tokens": tokens[1:], **given},
    )


def outputs(result: Any, index: int = 0) -> np.ndarray:
    """Logprobs of one datum of a pass."""
    tensor = result.loss_fn_outputs[index]["logprobs"]
    return np.asarray(tensor.data, np.float64).reshape(tensor.shape or [-1])


def logprobs(client: Any, *data: types.Datum) -> np.ndarray:
    """Logprobs of data one after the other, without gradients."""
    result = client.forward(list(data), "cross_entropy").result()
    return np.concatenate([outputs(result, i).ravel() for i in range(len(data))])


def step(client: Any, data: list[types.Datum], loss: str = "cross_entropy", rate: float = RATE) -> float:
    """One pass and one step; returns the sum of the losses."""
    passed = client.forward_backward(data, loss)
    stepped = client.optim_step(types.AdamParams(learning_rate=rate))
    stepped.result()
    return passed.result().metrics["loss:sum"]


def prompt(text: str = "hello") -> types.ModelInput:
    """A prompt of bytes."""
    return types.ModelInput.from_ints(list(text.encode()))


def sample(client: Any, text: str = "hello", n: int = 1, **params: Any) -> Any:
    """Samples of one prompt."""
    return client.sample(prompt(text), n, types.SamplingParams(**{"max_tokens": 4, **params})).result()


def name() -> str:
    """A checkpoint name that was not used before."""
    return f"c{uuid.uuid4().hex[:12]}"


def fails(call: Callable[[], Any], *words: str, within_s: float = 2.0) -> Exception:
    """The error of a call, which comes soon and says the words."""
    start = time.monotonic()
    with pytest.raises(Exception) as caught:  # noqa: PT011 (the SDKs have one class a status)
        call()
    assert time.monotonic() - start < within_s
    for word in words:
        assert word in str(caught.value), caught.value
    return caught.value
