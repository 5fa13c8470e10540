"""Between bytes and types: training requests in, results out, as protobuf (SDK 0.25 and later) or JSON (before).

Bytes fields of the protobuf messages are raw little-endian arrays: token ids int32, indices and offsets int64.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import numpy as np
import zstandard
from google.protobuf.message import DecodeError

from thumbs.clients.types import (
    Datum,
    ForwardBackwardOutput,
    LossFnOutput,
    ModelInput,
    SampledSequence,
    SampleResponse,
    TensorData,
    TensorDtype,
    TopkLogprobs,
)
from thumbs.errors import DataError
from thumbs.service.keys import UnknownKeyError, check_keys, present
from thumbs.service.wire_schema import MESSAGES, check_fields

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
MAX_BODY_BYTES = 64 * 2**20
"""The largest body of a request, compressed or not."""
MAX_DATUMS = 2**14
MAX_LOSS_INPUTS = 32
MAX_NUMBERS = 2**25
"""The most numbers of all tensors of a request together; a sparse tensor counts as a dense one."""

_DTYPES: dict[int, TensorDtype] = {1: "float32", 2: "int64"}
_DTYPE_NUMBERS = {dtype: number for number, dtype in _DTYPES.items()}
_ITEMS: dict[TensorDtype, str] = {"float32": "<f4", "int64": "<i8"}
DTYPES: dict[int, tuple[TensorDtype, str]] = {number: (dtype, _ITEMS[dtype]) for number, dtype in _DTYPES.items()}
"""By their numbers in messages: the name of each dtype and how its items lie in bytes."""
_STOP_REASON_NUMBERS = {"stop": 0, "length": 1}
_SPANS, _SPAN_NUMBERS = ("model_input_spans", "loss_fn_input_spans"), (3, 4)
"""Keys and field numbers of provenance spans in a datum; see HARMLESS in keys.py."""
_JSON_NAMES = {dict: "an object", list: "an array", str: "a text"}


class WireError(DataError):
    """A request that cannot be read. `model_id` and `seq_id` name the submission, where so much could be read."""

    def __init__(
        self, message: str, model_id: str = "", seq_id: int | None = None, *, is_unknown_key: bool = False
    ) -> None:
        super().__init__(message)
        self.model_id, self.seq_id, self.is_unknown_key = model_id, seq_id, is_unknown_key


@dataclass(frozen=True, eq=False)
class ForwardBackwardRequest:
    """A training pass over `data`; seq_id counts a model's submissions from 1, None if the client gave none."""

    model_id: str
    seq_id: int | None
    data: list[Datum]
    loss_fn: str
    loss_fn_config: Mapping[str, float | str]
    forward_only: bool


def decode_forward_backward(body: bytes, content_type: str, content_encoding: str = "") -> ForwardBackwardRequest:
    """The request in the body of a forward or forward_backward call; raises WireError if it cannot be read.

    The text chunks of a model input become one. Sparse tensors stay sparse.
    """
    body = _decompressed(body, content_encoding.strip().lower())
    kind = content_type.partition(";")[0].strip().lower()
    if kind == PROTOBUF:
        return _from_protobuf(body)
    if kind == JSON:
        return _from_json(body)
    raise WireError(f"got the content type {content_type!r}; send {PROTOBUF} or {JSON}")


def _decompressed(body: bytes, encoding: str) -> bytes:
    _check_size(len(body))
    if encoding == "zstd":
        try:
            size = zstandard.get_frame_parameters(body).content_size
            if size != zstandard.CONTENTSIZE_UNKNOWN:  # then max_output_size would not bind
                _check_size(size)
            return zstandard.ZstdDecompressor().decompress(body, max_output_size=MAX_BODY_BYTES, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise WireError(f"the body is not zstd data of at most {MAX_BODY_BYTES} bytes: {error}") from None
    if encoding not in ("", "identity"):
        raise WireError(f"got the content encoding {encoding!r}; send zstd or none")
    return body


def _check_size(size: int) -> None:
    if size > MAX_BODY_BYTES:
        raise WireError(f"the body has {size} bytes; at most {MAX_BODY_BYTES} are read, send fewer datums at a time")


@contextmanager
def _at(place: str, model_id: str = "", seq_id: int | None = None) -> Iterator[None]:
    """Errors of the data become WireErrors that begin with the place."""
    try:
        yield
    except (ValueError, TypeError, OverflowError) as error:
        text = f"{place}: {error}" if place else str(error)
        unknown = isinstance(error, UnknownKeyError) or getattr(error, "is_unknown_key", False)
        raise WireError(text, model_id, seq_id, is_unknown_key=unknown) from None


def _object(value: Any, name: str, *keys: str) -> dict[str, Any]:
    """The object without what is null; raises WireError if it has other keys."""
    given = present(_typed(value, dict, name))
    with _at(""):
        check_keys(given, keys, "" if name in ("datum", "tensor") else name)
    return given


def _typed(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise WireError(f"{name}: got {reprlib.repr(value)}; it must be {_JSON_NAMES[kind]}")
    return value


def _envelope(model_id: Any, seq_id: Any) -> tuple[str, int | None]:
    if not _typed(model_id, str, "model_id"):
        raise WireError("model_id is empty; name the model that create_model answered")
    if seq_id is not None and (type(seq_id) is not int or not 0 <= seq_id < 2**63):
        raise WireError(f"seq_id: got {reprlib.repr(seq_id)}; submissions are counted from 1")
    return model_id, seq_id or None


def _from_protobuf(body: bytes) -> ForwardBackwardRequest:
    message = MESSAGES["ForwardBackwardRequest"]()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise WireError(f"the body is not a ForwardBackwardRequest message: {error}") from None
    model_id, seq_id = _envelope(message.model_id, message.seq_id)
    config: dict[str, float | str] = dict(message.loss_fn_config)  # of clients older than the next field
    for key, value in message.loss_fn_config_v2.items():
        config[key] = getattr(value, value.WhichOneof("choice") or "number")
    with _at("", model_id, seq_id):
        check_fields(message)
        data = _datums(message.data, _message_datum)
    return ForwardBackwardRequest(model_id, seq_id, data, message.loss_fn, config, message.forward_only)


def _from_json(body: bytes) -> ForwardBackwardRequest:
    try:
        request = _typed(json.loads(body), dict, "the body")
    except (ValueError, RecursionError) as error:
        raise WireError(f"the body is not a JSON object: {error}") from None
    model_id, seq_id = _envelope(request.get("model_id"), request.get("seq_id"))
    with _at("", model_id, seq_id):
        forward_only = "forward_input" in request
        name = "forward_input" if forward_only else "forward_backward_input"
        check_keys(present(request), ("model_id", "seq_id", name))
        given = _object(request.get(name), name, "data", "loss_fn", "loss_fn_config")
        loss_fn = _typed(given.get("loss_fn"), str, "loss_fn")
        config = _typed(given.get("loss_fn_config") or {}, dict, "loss_fn_config")
        for key, value in config.items():
            with _at(f"loss_fn_config[{reprlib.repr(key)}]"):
                config[key] = value if isinstance(value, str) else float(value)
        data = _datums(_typed(given.get("data"), list, "data"), _json_datum)
    return ForwardBackwardRequest(model_id, seq_id, data, loss_fn, config, forward_only)


def _datums(items: Sequence[Any], read: Callable[[Any], Datum]) -> list[Datum]:
    if len(items) > MAX_DATUMS:
        raise WireError(f"got {len(items)} datums; send at most {MAX_DATUMS} at a time")
    data = []
    numbers = 0
    for index, item in enumerate(items):
        with _at(f"datum {index}"):
            data.append(read(item))
            numbers += sum(math.prod(tensor.shape) for tensor in data[-1].loss_fn_inputs.values())
            if numbers > MAX_NUMBERS:
                raise WireError(f"the tensors up to here have {numbers} numbers; send at most {MAX_NUMBERS} at a time")
    return data


def _tensors(inputs: Mapping[str, Any], read: Callable[[Any], TensorData]) -> dict[str, TensorData]:
    if len(inputs) > MAX_LOSS_INPUTS:
        raise WireError(f"got {len(inputs)} loss_fn_inputs; at most {MAX_LOSS_INPUTS} are read")
    tensors = {}
    for key, value in inputs.items():
        with _at(f"loss_fn_inputs[{reprlib.repr(key)}]"):
            tensors[key] = read(value)
    return tensors


def _json_datum(datum: Any) -> Datum:
    fields = _object(datum, "datum", "model_input", "loss_fn_inputs", *_SPANS)
    inputs = _typed(fields.get("loss_fn_inputs"), dict, "loss_fn_inputs")
    return Datum(decode_model_input(fields.get("model_input")), _tensors(inputs, decode_tensor))


def decode_model_input(value: Any) -> ModelInput:
    """The text chunks of {"chunks": [...]} as one; raises WireError if a chunk is not a text."""
    tokens: list[int] = []
    fields = _object(value, "model_input", "chunks")
    for index, chunk in enumerate(_typed(fields.get("chunks"), list, "chunks")):
        kind = _typed(chunk, dict, f"chunk {index}").get("type", "encoded_text")
        if kind != "encoded_text":
            raise _no_text(index, kind)
        with _at(f"chunk {index}"):
            check_keys(present(chunk), ("tokens",))
        tokens += _numbers(chunk.get("tokens"), f"chunk {index}: tokens", {int})
    with _at("tokens"):
        return ModelInput.from_ints(TensorData(tokens, "int64", [len(tokens)]).values)


def decode_tensor(value: Any) -> TensorData:
    """The tensor in {"data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices"}, sparse if it is.

    Raises WireError if its parts do not fit each other.
    """
    fields = _object(value, "tensor", "data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices")
    data = _numbers(fields.get("data"), "data", {int, float})
    dtype = _typed(fields.get("dtype"), str, "dtype")
    names = ("shape", "sparse_crow_indices", "sparse_col_indices")
    rest = [None if fields.get(name) is None else _numbers(fields[name], name, {int}) for name in names]
    with _at("tensor"):
        return _bounded(TensorData(data, cast(TensorDtype, dtype), *rest))


def _numbers(value: Any, name: str, types: set[type]) -> list[Any]:
    """The array, if all its items are of these types; numpy would make texts a table as wide as the longest."""
    if not set(map(type, _typed(value, list, name))) <= types:
        what = "numbers" if float in types else "integers"
        raise WireError(f"{name}: got {reprlib.repr(value)}; it must be a flat array of {what}")
    return value


def _bounded(tensor: TensorData) -> TensorData:
    if len(tensor.shape) > 2 or max(math.prod(tensor.shape), *tensor.shape, 0) > MAX_NUMBERS:
        raise WireError(f"got the shape {tensor.shape}; at most two dimensions and {MAX_NUMBERS} numbers are read")
    return tensor


def _no_text(index: int, kind: object) -> WireError:
    return WireError(f"chunk {index} is of type {reprlib.repr(kind)}; the models here read chunks of type encoded_text")


def _message_datum(datum: Any) -> Datum:
    check_fields(datum, *_SPAN_NUMBERS)
    tokens = []
    for index, chunk in enumerate(datum.model_input):
        kind = chunk.WhichOneof("choice")
        if kind != "encoded_text":
            raise _no_text(index, kind)
        with _at(f"chunk {index}: tokens"):
            tokens.append(np.frombuffer(chunk.encoded_text.tokens, "<i4"))
    model_input = ModelInput.from_ints(np.concatenate([np.empty(0, np.int32), *tokens]))
    return Datum(model_input, _tensors(datum.loss_fn_inputs, _message_tensor))


def _message_tensor(tensor: Any) -> TensorData:
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise WireError(f"got the dtype number {tensor.dtype}; allowed are 1 (float32) and 2 (int64)")
    shape = list(tensor.shape) or None  # a client that was given no shape sends none, and means one dimension
    if tensor.WhichOneof("choice") != "sparse_csr":
        return _bounded(TensorData(np.frombuffer(tensor.dense, _ITEMS[dtype]), dtype, shape))
    csr = tensor.sparse_csr
    crow, col = np.frombuffer(csr.crow_indices, "<i8"), np.frombuffer(csr.col_indices, "<i8")
    return _bounded(TensorData(np.frombuffer(csr.values, _ITEMS[dtype]), dtype, shape, crow, col))


def encode_result(result: ForwardBackwardOutput | SampleResponse) -> tuple[bytes, str]:
    """A result as protobuf, which every SDK reads, and its content type.

    The outputs of a ForwardBackwardOutput must have the same names for every datum.
    """
    training = isinstance(result, ForwardBackwardOutput)
    return (_output_message(result) if training else _sample_message(result)).SerializeToString(), PROTOBUF


def _output_message(result: ForwardBackwardOutput) -> Any:
    message = MESSAGES["ForwardBackwardOutput"](loss_fn_output_type=result.loss_fn_output_type, metrics=result.metrics)
    for _, rows in groupby(result.loss_fn_outputs, key=_layout):
        datums = list(rows)
        record = message.loss_fn_outputs.add(num_datums=len(datums))
        for name in datums[0]:
            record.fields[name].CopyFrom(_batched_message([datum[name] for datum in datums]))
    return message


def _layout(output: LossFnOutput) -> object:
    """Equal for outputs that fit into one record."""
    return {name: (tensor.dtype, tensor.shape[1:]) for name, tensor in output.items()}


def _batched_message(tensors: Sequence[TensorData]) -> Any:
    pieces = [_bytes(tensor.to_numpy(), _ITEMS[tensor.dtype]) for tensor in tensors]
    ends = np.cumsum([0, *(len(piece) for piece in pieces)])
    return MESSAGES["BatchedTensor"](
        data=b"".join(pieces),
        offsets=_bytes(ends, "<i8"),
        dtype=_DTYPE_NUMBERS[tensors[0].dtype],
        trailing_shape=tensors[0].shape[1:],
    )


def _sample_message(result: SampleResponse) -> Any:
    draws = result.prompt_alt_tokens
    return MESSAGES["SampleResponse"](
        sequences=[_sequence_message(sequence) for sequence in result.sequences],
        prompt_logprobs=_optional_bytes(result.prompt_logprobs_np, "<f4"),
        topk_prompt_logprobs=_topk_message(result.topk_prompt_logprobs_np),
        prompt_cache_hit_tokens=result.prompt_cache_hit_tokens,
        target_prompt_logprobs=_tensor_message(result.target_prompt_logprobs),
        prompt_alt_tokens=draws
        and MESSAGES["PromptAltTokens"](tokens=_tensor_message(draws.tokens), logprobs=_tensor_message(draws.logprobs)),
    )


def _sequence_message(sequence: SampledSequence) -> Any:
    return MESSAGES["SampledSequence"](
        stop_reason=_STOP_REASON_NUMBERS[sequence.stop_reason],
        tokens=_bytes(sequence.tokens_np, "<i4"),
        logprobs=_optional_bytes(sequence.logprobs_np, "<f4"),
        topk_sampled_logprobs=_topk_message(sequence.topk_logprobs_np),
    )


def _topk_message(topk: TopkLogprobs | None) -> Any:
    if topk is None:
        return None
    length, k = topk.token_ids.shape
    token_ids, logprobs = _bytes(topk.token_ids, "<i4"), _bytes(topk.logprobs, "<f4")
    return MESSAGES["TopkLogprobs"](token_ids=token_ids, logprobs=logprobs, k=k, length=length)


def _tensor_message(tensor: TensorData | None) -> Any:
    if tensor is None:
        return None
    values = _bytes(tensor.values, _ITEMS[tensor.dtype])
    if tensor.sparse_crow_indices is None:
        return MESSAGES["Tensor"](dense=values, dtype=_DTYPE_NUMBERS[tensor.dtype], shape=tensor.shape)
    csr = MESSAGES["SparseCsr"](
        values=values,
        crow_indices=_bytes(tensor.sparse_crow_indices, "<i8"),
        col_indices=_bytes(tensor.sparse_col_indices, "<i8"),
    )
    return MESSAGES["Tensor"](sparse_csr=csr, dtype=_DTYPE_NUMBERS[tensor.dtype], shape=tensor.shape)


def _bytes(numbers: Any, item: str) -> bytes:
    return np.asarray(numbers, item).tobytes()


def _optional_bytes(numbers: np.ndarray | None, item: str) -> bytes | None:
    """None leaves a field unset."""
    return None if numbers is None else _bytes(numbers, item)
