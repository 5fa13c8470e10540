"""Results as they were kept, in protobuf, for callers that read JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from thumbs.clients.types import TopkLogprobs
from thumbs.service.wire import DTYPES, JSON, PROTOBUF
from thumbs.service.wire_schema import MESSAGES

_STOP_REASONS = ("stop", "length")


def as_accepted(kind: str, body: bytes, accept: str) -> tuple[bytes, str]:
    """Body and content type of a kept result: protobuf where the Accept header names it, else JSON; `kind` is that of
    its operation.
    """
    message = MESSAGES["SampleResponse" if kind == "sample" else "ForwardBackwardOutput"].FromString(body)
    # SDK 0.22, which takes JSON too, reads the trailing dimensions of the first record alone.
    if PROTOBUF in accept and (kind == "sample" or JSON not in accept or len(message.loss_fn_outputs) <= 1):
        return body, PROTOBUF
    return json.dumps(_samples(message) if kind == "sample" else _output(message)).encode(), JSON


def _output(message: Any) -> dict[str, Any]:
    outputs: list[dict[str, Any]] = []
    for record in message.loss_fn_outputs:
        names = list(record.fields)
        rows = zip(*(_tensors(record.fields[name]) for name in names), strict=True)
        outputs += [dict(zip(names, row, strict=True)) for row in rows]
    head = {"loss_fn_output_type": message.loss_fn_output_type}
    return {**head, "loss_fn_outputs": outputs, "metrics": dict(message.metrics)}


def _tensors(batched: Any) -> Iterator[dict[str, Any]]:
    """One a datum; offsets are in bytes."""
    dtype, item = DTYPES[batched.dtype]
    trailing = list(batched.trailing_shape)
    for begin, end in pairwise(np.frombuffer(batched.offsets, "<i8").tolist()):
        data = np.frombuffer(batched.data[begin:end], item).tolist()
        yield {"data": data, "dtype": dtype, "shape": [len(data) // max(math.prod(trailing), 1), *trailing]}


def _samples(message: Any) -> dict[str, Any]:
    sequences = [
        {
            "tokens": np.frombuffer(sequence.tokens, "<i4").tolist(),
            "logprobs": np.frombuffer(sequence.logprobs, "<f4").tolist() if sequence.logprobs else None,
            "stop_reason": _STOP_REASONS[sequence.stop_reason],
        }
        for sequence in message.sequences
    ]
    logprobs = np.frombuffer(message.prompt_logprobs, "<f4").tolist()
    top = _topk(message.topk_prompt_logprobs).to_lists() if message.HasField("topk_prompt_logprobs") else None
    return {
        "type": "sample",
        "sequences": sequences,
        "prompt_logprobs": [None if math.isnan(each) else each for each in logprobs] or None,
        "topk_prompt_logprobs": top,
    }


def _topk(message: Any) -> TopkLogprobs:
    shape = (message.length, message.k)
    ids, logprobs = np.frombuffer(message.token_ids, "<i4"), np.frombuffer(message.logprobs, "<f4")
    return TopkLogprobs(ids.reshape(shape), logprobs.reshape(shape))
