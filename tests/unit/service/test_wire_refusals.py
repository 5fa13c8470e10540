"""Requests that cannot be read are refused by name, whatever they hold, and cost no more than their bounds."""

import contextlib
import json
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import sdk_messages
from thumbs.errors import DataError
from thumbs.service import wire
from thumbs.service.wire_schema import MESSAGES

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


def message_with(tensor=None, tokens=b"", chunk="encoded_text"):
    """A protobuf request of one good datum and one made of the arguments."""
    message = MESSAGES["ForwardBackwardRequest"](model_id="m", seq_id=7)
    message.data.add()
    datum = message.data.add()
    if chunk == "encoded_text":
        datum.model_input.add().encoded_text.tokens = tokens
    else:
        getattr(datum.model_input.add(), chunk).SetInParent()
    if tensor:
        datum.loss_fn_inputs["weights"].CopyFrom(MESSAGES["Tensor"](**tensor))
    return message.SerializeToString()


def csr(values=b"\0\0\0\0", crow=(0, 1), col=(0,), shape=(1, 2), dtype=1):
    crow, col = (np.array(indices, "<i8").tobytes() for indices in (crow, col))
    return {"sparse_csr": {"values": values, "crow_indices": crow, "col_indices": col}, "dtype": dtype, "shape": shape}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (message_with(tokens=b"\1\2\3"), "datum 1: chunk 0: tokens: .*multiple"),
        (message_with(chunk="image"), "datum 1: chunk 0 is of type 'image'"),
        (message_with(chunk="dmel"), "datum 1: chunk 0 is of type 'dmel'"),
        (message_with({"dense": b"\1\2\3", "dtype": 1}), r"datum 1: loss_fn_inputs\['weights'\]: .*multiple"),
        (message_with({"dense": b"\0\0\0\0", "dtype": 0}), "dtype number 0"),
        (message_with({"dense": b"\0\0", "dtype": 4}), "dtype number 4"),
        (message_with({"dense": b"\0\0\0\0", "dtype": 1, "shape": [2]}), "1 numbers for the shape"),
        (message_with({"dense": b"\0\0\0\0", "dtype": 1, "shape": [-1]}), "1 numbers for the shape"),
        (message_with({"dense": b"\0\0\0\0", "dtype": 1, "shape": [1, 1, 1]}), "at most two dimensions"),
        (message_with({"dense": b"\0\0\0\0", "dtype": 1, "shape": [1] * 99}), r"loss_fn_inputs\['weights'\]"),
        (message_with({"dense": b"", "dtype": 1, "shape": [0, 2**62]}), r"loss_fn_inputs\['weights'\]"),
        (message_with(csr(values=b"")), "0 values and 1 column"),
        (message_with(csr(crow=(0, 2))), "2 rising numbers"),
        (message_with(csr(col=(2,))), "from 0 to 1, got 2"),
        (message_with(csr(shape=(1,))), "two dimensions"),
        (message_with(csr(shape=())), "needs shape"),
        (message_with(csr(shape=(1, 2**62))), "numbers are read"),
    ],
)
def test_an_error_names_the_datum_and_the_key_and_the_submission(body, message):
    with pytest.raises(wire.WireError, match=message) as caught:
        wire.decode_forward_backward(body, PROTOBUF)
    assert (caught.value.model_id, caught.value.seq_id) == ("m", 7)
    assert isinstance(caught.value, DataError)


def test_images_of_the_sdk_are_refused_by_name():
    with pytest.raises(wire.WireError, match=r"datum 0: chunk 0 is of type 'image'.*encoded_text"):
        wire.decode_forward_backward(sdk_messages.IMAGE_REQUEST, PROTOBUF)


GOOD_TENSOR = {"data": [1], "dtype": "int64"}


@pytest.mark.parametrize(
    ("datum", "message"),
    [
        (None, "datum 1: datum: got None; it must be an object"),
        ({"loss_fn_inputs": {}}, "datum 1: model_input: got None; it must be an object"),
        ({"model_input": {}, "loss_fn_inputs": {}}, "chunks: got None; it must be an array"),
        ({"model_input": {"chunks": [1]}, "loss_fn_inputs": {}}, "chunk 0: got 1; it must be an object"),
        ({"model_input": {"chunks": [{"tokens": [1.5]}]}, "loss_fn_inputs": {}}, "chunk 0: tokens: .*integers"),
        ({"model_input": {"chunks": [{"tokens": [2**70]}]}, "loss_fn_inputs": {}}, "datum 1: tokens: .*2\\*\\*63"),
        ({"model_input": {"chunks": [{"type": "image"}]}, "loss_fn_inputs": {}}, "chunk 0 is of type 'image'"),
        ({"model_input": {"chunks": [{"type": []}]}, "loss_fn_inputs": {}}, "chunk 0 is of type"),
        ({"model_input": {"chunks": []}}, "loss_fn_inputs: got None; it must be an object"),
    ],
)
def test_json_datums_are_checked(datum, message):
    body = json.loads(sdk_messages.JSON_REQUEST)
    body["forward_input"]["data"][1] = datum
    with pytest.raises(wire.WireError, match=message) as caught:
        wire.decode_forward_backward(json.dumps(body).encode(), JSON)
    assert (caught.value.model_id, caught.value.seq_id) == ("s:train:0", 300)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ([], "it must be an object"),
        ({"dtype": "int64"}, "data: got None; it must be an array"),
        ({"data": [1]}, "dtype: got None; it must be a text"),
        ({"data": [1], "dtype": "int8"}, "'int8'.*'int64' or 'float32'"),
        ({"data": ["1"], "dtype": "int64"}, "flat array of numbers"),
        ({"data": [[1]], "dtype": "int64"}, "flat array of numbers"),
        ({"data": [None], "dtype": "float32"}, "flat array of numbers"),
        ({"data": [1.5], "dtype": "int64"}, "whole numbers"),
        ({"data": [2**64], "dtype": "int64"}, "tensor: .*numbers"),
        (GOOD_TENSOR | {"shape": 1}, "shape: got 1; it must be an array"),
        (GOOD_TENSOR | {"shape": [1.0]}, "shape: .*integers"),
        (GOOD_TENSOR | {"shape": [2]}, "1 numbers for the shape"),
        (GOOD_TENSOR | {"sparse_crow_indices": [0, 1]}, "needs shape"),
        (GOOD_TENSOR | {"shape": [1, 2**80], "sparse_crow_indices": [0, 1], "sparse_col_indices": [0]}, "are read"),
        (GOOD_TENSOR | {"shape": [1, 1], "sparse_crow_indices": [0, 1], "sparse_col_indices": ["0"]}, "integers"),
        (GOOD_TENSOR | {"shape": [1, 1], "sparse_crow_indices": [0, 2**64], "sparse_col_indices": [0]}, "numbers"),
    ],
)
def test_json_tensors_are_checked(tensor, message):
    with pytest.raises(wire.WireError, match=message):
        wire.decode_tensor(tensor)


def test_json_tensors_without_a_shape_have_one_dimension():
    assert wire.decode_tensor(GOOD_TENSOR).shape == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": ""}, "model_id is empty"),
        ({"model_id": 3}, "model_id: got 3"),
        ({"seq_id": -1}, "seq_id: got -1"),
        ({"seq_id": 2**63}, "seq_id"),
        ({"seq_id": True}, "seq_id: got True"),
        ({"forward_input": None}, "forward_input: got None"),
        ({"forward_input": {"data": [], "loss_fn": 1}}, "loss_fn: got 1"),
        ({"forward_input": {"data": 1, "loss_fn": ""}}, "data: got 1"),
        ({"forward_input": {"data": [], "loss_fn": "", "loss_fn_config": [1]}}, "loss_fn_config: got"),
        ({"forward_input": {"data": [], "loss_fn": "", "loss_fn_config": {"beta": []}}}, r"loss_fn_config\['beta'\]"),
    ],
)
def test_json_envelopes_are_checked(change, message):
    body = json.dumps(json.loads(sdk_messages.JSON_REQUEST) | change).encode()
    with pytest.raises(wire.WireError, match=message):
        wire.decode_forward_backward(body, JSON)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000])
def test_bodies_that_are_no_json_object_are_refused(body):
    with pytest.raises(wire.WireError):
        wire.decode_forward_backward(body, JSON)


@pytest.mark.parametrize(("kind", "encoding"), [("text/plain", ""), ("", ""), (PROTOBUF, "gzip"), (PROTOBUF, "zstd")])
def test_other_types_and_encodings_are_refused(kind, encoding):
    with pytest.raises(wire.WireError, match=r"send|zstd"):
        wire.decode_forward_backward(sdk_messages.REQUEST, kind, encoding)


@settings(deadline=None, max_examples=300)
@given(
    body=st.binary() | st.just(sdk_messages.REQUEST) | st.just(sdk_messages.JSON_REQUEST),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255), st.integers(0, 3)), max_size=4),
    kind=st.sampled_from([PROTOBUF, JSON]),
    encoding=st.sampled_from(["", "zstd"]),
    compress=st.booleans(),
)
def test_any_bytes_are_read_or_refused(body, edits, kind, encoding, compress):
    body = bytearray(zstandard.compress(body) if compress else body)
    for where, byte, removed in edits:
        at = int(where * len(body))
        body[at : at + removed] = bytes([byte])
    try:
        request = wire.decode_forward_backward(bytes(body), kind, encoding)
    except wire.WireError:
        return
    for datum in request.data:
        assert all(tensor.to_numpy().ndim <= 2 for tensor in datum.loss_fn_inputs.values())


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
names = st.sampled_from(
    ["chunks", "tokens", "type", "data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices"]
)
values = scalars | st.sampled_from(["int64", "float32", "encoded_text"])
trees = st.recursive(values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5))


@given(tree=trees)
def test_any_json_is_a_tensor_and_a_model_input_or_refused(tree):
    for decode in (wire.decode_tensor, wire.decode_model_input):
        with contextlib.suppress(wire.WireError):
            decode(tree)


# ---- bounds ----


def test_archive_bombs_do_not_unfold():
    bomb = zstandard.compress(bytes(wire.MAX_BODY_BYTES + 1))
    writer = zstandard.ZstdCompressor().compressobj()  # this one does not say its size at the front
    silent_bomb = writer.compress(bytes(wire.MAX_BODY_BYTES + 1)) + writer.flush()
    tracemalloc.start()
    with pytest.raises(wire.WireError, match=f"{wire.MAX_BODY_BYTES + 1} bytes"):
        wire.decode_forward_backward(bomb, PROTOBUF, "zstd")
    with pytest.raises(wire.WireError, match=f"at most {wire.MAX_BODY_BYTES} bytes"):
        wire.decode_forward_backward(silent_bomb, PROTOBUF, "zstd")
    assert tracemalloc.get_traced_memory()[1] < 2 * wire.MAX_BODY_BYTES
    tracemalloc.stop()


def test_cut_and_lengthened_archives_are_refused():
    archive = zstandard.compress(sdk_messages.REQUEST)
    assert wire.decode_forward_backward(archive, PROTOBUF, "zstd").seq_id == 300
    for wrong in (archive[:-1], archive + archive, b""):
        with pytest.raises(wire.WireError, match="zstd"):
            wire.decode_forward_backward(wrong, PROTOBUF, "zstd")


def test_bodies_datums_inputs_and_numbers_are_bounded(monkeypatch):
    def refused(message, body):
        with pytest.raises(wire.WireError, match=message):
            wire.decode_forward_backward(body, PROTOBUF)

    refused("bytes; at most", bytes(wire.MAX_BODY_BYTES + 1))
    request = MESSAGES["ForwardBackwardRequest"](model_id="m")
    for _ in range(wire.MAX_DATUMS + 1):
        request.data.add()
    refused(f"{wire.MAX_DATUMS + 1} datums", request.SerializeToString())
    request = MESSAGES["ForwardBackwardRequest"](model_id="m")
    datum = request.data.add()
    for key in range(wire.MAX_LOSS_INPUTS + 1):
        datum.loss_fn_inputs[str(key)].dtype = 1
    refused(f"{wire.MAX_LOSS_INPUTS + 1} loss_fn_inputs", request.SerializeToString())
    wide = message_with(csr(shape=(1, wire.MAX_NUMBERS)))
    assert wire.decode_forward_backward(wide, PROTOBUF).data[1].loss_fn_inputs["weights"].data == [0.0]
    refused("datum 3: the tensors up to here", wide + wide[wide.index(b"\x1a\0") :])


def test_texts_for_numbers_cost_no_memory():
    tracemalloc.start()
    with pytest.raises(wire.WireError, match="flat array of numbers"):
        wire.decode_tensor({"data": ["x" * 10_000, *["y"] * 10_000], "dtype": "float32"})  # 400 MB as a numpy array
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
