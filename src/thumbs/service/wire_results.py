"""Results as they were kept, in protobuf, for callers that read JSON."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from thumbs.clients.types import (
    ForwardBackwardOutput,
    LossFnOutput,
    SampledSequence,
    SampleResponse,
    TensorData,
    TopkLogprobs,
)
from thumbs.service.wire import DTYPES, JSON, PROTOBUF, result_json
from thumbs.service.wire_schema import MESSAGES

_STOP_REASONS = ("stop", "length")


def as_accepted(kind: str, body: bytes, accept: str) -> tuple[bytes, str]:
    """Body and content type of a kept result: protobuf where the Accept header names it, else JSON; `kind` is that of
    its operation.
    """
    # SDK 0.22, which takes JSON too, reads the trailing dimensions of the first record alone.
    if PROTOBUF in accept and (kind == "sample" or JSON not in accept or _records(body) <= 1):
        return body, PROTOBUF
    return result_json(_samples(body) if kind == "sample" else _output(body)), JSON


def _records(body: bytes) -> int:
    return len(MESSAGES["ForwardBackwardOutput"].FromString(body).loss_fn_outputs)


def _output(body: bytes) -> ForwardBackwardOutput:
    message = MESSAGES["ForwardBackwardOutput"].FromString(body)
    outputs: list[LossFnOutput] = []
    for record in message.loss_fn_outputs:
        columns = {name: _tensors(batched) for name, batched in record.fields.items()}
        outputs += [{name: column[i] for name, column in columns.items()} for i in range(record.num_datums)]
    return ForwardBackwardOutput(message.loss_fn_output_type, outputs, dict(message.metrics))


def _tensors(batched: Any) -> list[TensorData]:
    """One a datum; offsets are in bytes."""
    dtype, item = DTYPES[batched.dtype]
    ends = np.frombuffer(batched.offsets, "<i8").tolist()
    pieces = [np.frombuffer(batched.data[a:b], item) for a, b in pairwise(ends)]
    trailing = list(batched.trailing_shape)
    return [TensorData(piece, dtype, [len(piece) // max(int(np.prod(trailing)), 1), *trailing]) for piece in pieces]


def _samples(body: bytes) -> SampleResponse:
    message = MESSAGES["SampleResponse"].FromString(body)
    sequences = [
        SampledSequence(
            _STOP_REASONS[sequence.stop_reason],
            tokens_np=np.frombuffer(sequence.tokens, "<i4"),
            logprobs_np=np.frombuffer(sequence.logprobs, "<f4") if sequence.logprobs else None,
        )
        for sequence in message.sequences
    ]
    logprobs, top = message.prompt_logprobs, message.topk_prompt_logprobs
    return SampleResponse(
        sequences,
        prompt_logprobs_np=np.frombuffer(logprobs, "<f4") if logprobs else None,
        topk_prompt_logprobs_np=_topk(top) if message.HasField("topk_prompt_logprobs") else None,
    )


def _topk(message: Any) -> TopkLogprobs:
    shape = (message.length, message.k)
    ids, logprobs = np.frombuffer(message.token_ids, "<i4"), np.frombuffer(message.logprobs, "<f4")
    return TopkLogprobs(ids.reshape(shape), logprobs.reshape(shape))
