"""What a client sends is what the engine gets, and what it answers is what the client reads."""

import json
import struct
from itertools import pairwise

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import sdk_messages
from thumbs.clients import types
from thumbs.service import wire, wire_results
from thumbs.service.wire_schema import MESSAGES

PROTOBUF = "application/x-protobuf"
JSON = "application/json"


def floats(*values):
    return np.array(values, np.float32)


# ---- requests ----


@pytest.mark.parametrize(
    ("body", "kind"), [(sdk_messages.REQUEST, PROTOBUF), (sdk_messages.JSON_REQUEST, "Application/JSON; charset=utf-8")]
)
def test_requests_of_both_sdks_are_read(body, kind):
    request = wire.decode_forward_backward(body, kind)
    assert (request.model_id, request.seq_id, request.loss_fn) == ("s:train:0", 300, "cross_entropy")
    assert request.forward_only
    assert request.loss_fn_config == {"beta": 0.05} | ({"id": "a"} if body is sdk_messages.REQUEST else {})
    first, second = request.data
    assert (first.model_input.to_ints(), second.model_input.to_ints()) == ([5, 6, 7], [1, 2, 3])
    targets, weights = first.loss_fn_inputs["target_tokens"], second.loss_fn_inputs["weights"]
    assert (targets.dtype, targets.data, targets.shape) == ("int64", [6, 7, 2**40], [3])
    assert (weights.sparse_crow_indices, weights.sparse_col_indices) == ([0, 1, 1, 2], [4, 1])
    assert (weights.dtype, weights.data) == ("float32", [0.5, -2.0])
    np.testing.assert_array_equal(weights.to_numpy(), sdk_messages.WEIGHTS)


def test_the_key_of_a_json_request_says_whether_it_goes_backward():
    body = sdk_messages.JSON_REQUEST.replace(b"forward_input", b"forward_backward_input")
    assert not wire.decode_forward_backward(body, JSON).forward_only


def test_provenance_and_types_are_passed_over_and_nothing_else():
    assert wire.decode_forward_backward(sdk_messages.SPANS_REQUEST, PROTOBUF).data[0].model_input.to_ints() == [1]
    body = sdk_messages.JSON_REQUEST.replace(b'"model_id"', b'"type":"forward","new_field":null,"model_id"')
    assert len(wire.decode_forward_backward(body, JSON).data) == 2
    with pytest.raises(wire.WireError, match="new_field is not a known field") as refused:
        wire.decode_forward_backward(body.replace(b"null,", b"{},"), JSON)
    assert refused.value.is_unknown_key


@pytest.mark.parametrize("place", ["request", "datum"])
def test_a_field_of_a_newer_schema_is_refused(place):
    request = MESSAGES["ForwardBackwardRequest"](model_id="m")
    newer = b"\xf8\x07\x01"  # field 127, a number
    if place == "datum":
        request.data.add().MergeFromString(newer)
    body = request.SerializeToString() + (newer if place == "request" else b"")
    with pytest.raises(wire.WireError, match="field 127") as refused:
        wire.decode_forward_backward(body, PROTOBUF)
    assert refused.value.is_unknown_key


def test_settings_may_be_in_the_older_field_alone():
    body = MESSAGES["ForwardBackwardRequest"](model_id="m", loss_fn_config={"beta": 0.5}).SerializeToString()
    assert wire.decode_forward_backward(body, PROTOBUF).loss_fn_config == {"beta": 0.5}


tensors = st.one_of(
    st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(lambda x: types.TensorData(x, "float32")),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5).map(lambda x: types.TensorData(x, "int64")),
    st.integers(0, 4).map(lambda n: types.TensorData(np.arange(2 * n), "int64", [2, n])),
    st.lists(st.sets(st.integers(0, 4)), max_size=5).map(
        lambda rows: types.TensorData(
            np.arange(sum(map(len, rows))) / 2 + 1,
            "float32",
            [len(rows), 5],
            np.cumsum([0, *map(len, rows)]),
            [column for row in rows for column in sorted(row)],
        )
    ),
)
token_lists = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=6)
requests = st.fixed_dictionaries(
    {
        "model_id": st.text(st.characters(codec="utf-8"), min_size=1),
        "seq_id": st.none() | st.integers(1, 2**31 - 1),
        "loss_fn": st.text(st.characters(codec="utf-8")),
        "config": st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False) | st.text(max_size=3), max_size=3),
        "forward_only": st.booleans(),
        "data": st.lists(
            st.tuples(st.lists(token_lists, max_size=3), st.dictionaries(st.text(max_size=3), tensors, max_size=3)),
            max_size=3,
        ),
    }
)


def as_protobuf(given):
    message = MESSAGES["ForwardBackwardRequest"](
        model_id=given["model_id"], seq_id=given["seq_id"], loss_fn=given["loss_fn"], forward_only=given["forward_only"]
    )
    for key, value in given["config"].items():
        if isinstance(value, str):
            message.loss_fn_config_v2[key].text = value
        else:
            message.loss_fn_config[key] = message.loss_fn_config_v2[key].number = value
    for chunks, inputs in given["data"]:
        datum = message.data.add()
        for tokens in chunks:
            datum.model_input.add().encoded_text.tokens = struct.pack(f"<{len(tokens)}i", *tokens)
        for key, tensor in inputs.items():
            to = datum.loss_fn_inputs[key]
            to.shape.extend(tensor.shape)
            item, to.dtype = ("f", 1) if tensor.dtype == "float32" else ("q", 2)
            values = struct.pack(f"<{len(tensor.data)}{item}", *tensor.data)
            if tensor.sparse_crow_indices is None:
                to.dense = values
            else:
                to.sparse_csr.values = values
                to.sparse_csr.crow_indices = np.array(tensor.sparse_crow_indices, "<i8").tobytes()
                to.sparse_csr.col_indices = np.array(tensor.sparse_col_indices, "<i8").tobytes()
    return message.SerializeToString()


def as_json(given):
    data = []
    for chunks, inputs in given["data"]:
        tensors_of_datum = {}
        for key, tensor in inputs.items():
            written = {"data": tensor.data, "dtype": tensor.dtype, "shape": tensor.shape}
            if tensor.sparse_crow_indices is not None:
                written["sparse_crow_indices"] = tensor.sparse_crow_indices
                written["sparse_col_indices"] = tensor.sparse_col_indices
            tensors_of_datum[key] = written
        texts = [{"type": "encoded_text", "tokens": tokens} for tokens in chunks]
        data.append({"model_input": {"chunks": texts}, "loss_fn_inputs": tensors_of_datum})
    inner = {"data": data, "loss_fn": given["loss_fn"], "loss_fn_config": given["config"]}
    key = "forward_input" if given["forward_only"] else "forward_backward_input"
    return json.dumps({key: inner, "model_id": given["model_id"], "seq_id": given["seq_id"]}).encode()


@settings(deadline=None)
@given(given=requests, dialect=st.sampled_from([PROTOBUF, "zstd", JSON]))
def test_a_request_arrives_as_it_was_sent(given, dialect):
    body = as_json(given) if dialect == JSON else as_protobuf(given)
    if dialect == "zstd":
        got = wire.decode_forward_backward(zstandard.compress(body), PROTOBUF, "zstd")
    else:
        got = wire.decode_forward_backward(body, dialect)
    assert (got.model_id, got.seq_id, got.loss_fn, got.loss_fn_config, got.forward_only) == (
        given["model_id"],
        given["seq_id"],
        given["loss_fn"],
        given["config"],
        given["forward_only"],
    )
    assert len(got.data) == len(given["data"])
    for datum, (chunks, inputs) in zip(got.data, given["data"], strict=True):
        assert datum.model_input.to_ints() == [token for tokens in chunks for token in tokens]
        assert datum.loss_fn_inputs.keys() == inputs.keys()
        for key, tensor in datum.loss_fn_inputs.items():
            names = ("dtype", "shape", "data", "sparse_crow_indices", "sparse_col_indices")
            assert [getattr(tensor, name) for name in names] == [getattr(inputs[key], name) for name in names]


# ---- results ----

SAMPLE_RESULT = types.SampleResponse(
    sequences=[
        types.SampledSequence(
            "length",
            "q0",
            np.array([5, 6]),
            np.array([-0.5, -0.25]),
            types.TopkLogprobs(np.array([[5], [6]]), np.array([[-0.5], [-0.25]])),
        ),
        types.SampledSequence("stop", "q1", np.array([2])),
    ],
    prompt_logprobs_np=floats(np.nan, -1.5),
    topk_prompt_logprobs_np=types.TopkLogprobs(np.array([[0, 0], [8, 9]]), np.array([[-99999, -99999], [-1, -2]])),
    prompt_cache_hit_tokens=3,
    target_prompt_logprobs=types.TensorData([-3], "float32", [1, 4], [0, 1], [1]),
    prompt_alt_tokens=types.PromptAltTokens(
        types.TensorData([7], "int64", [1, 1]), types.TensorData([-4], "float32", [1, 1])
    ),
)
TRAINING_RESULT = types.ForwardBackwardOutput(
    "ArrayRecord",
    [
        {"logprobs": types.TensorData.from_numpy(floats(-1))},
        {"logprobs": types.TensorData.from_numpy(floats(-2, -3))},
        {"logprobs": types.TensorData.from_numpy(floats([-4, -5]))},
    ],
    {"loss:sum": 1.5},
)


def test_protobuf_results_are_those_of_the_sdk():
    assert wire.encode_result(SAMPLE_RESULT)[0] == sdk_messages.SAMPLE_RESULT
    assert wire.encode_result(TRAINING_RESULT)[0] == sdk_messages.TRAINING_RESULT


def as_told(kind, result):
    """A result as it is told who reads JSON."""
    body, content = wire_results.as_accepted(kind, wire.encode_result(result)[0], "*/*")
    assert content == JSON
    return json.loads(body)


def test_json_results_have_the_documented_fields():
    assert as_told("sample", SAMPLE_RESULT) == {
        "type": "sample",
        "sequences": [
            {"tokens": [5, 6], "logprobs": [-0.5, -0.25], "stop_reason": "length"},
            {"tokens": [2], "logprobs": None, "stop_reason": "stop"},
        ],
        "prompt_logprobs": [None, -1.5],
        "topk_prompt_logprobs": [None, [[8, -1.0], [9, -2.0]]],
    }
    assert as_told("forward_backward", TRAINING_RESULT) == {
        "loss_fn_output_type": "ArrayRecord",
        "loss_fn_outputs": [
            {"logprobs": {"data": [-1.0], "dtype": "float32", "shape": [1]}},
            {"logprobs": {"data": [-2.0, -3.0], "dtype": "float32", "shape": [2]}},
            {"logprobs": {"data": [-4.0, -5.0], "dtype": "float32", "shape": [1, 2]}},
        ],
        "metrics": {"loss:sum": 1.5},
    }


def test_a_bare_sample_is_told_as_json():
    bare = types.SampleResponse([types.SampledSequence("stop", "q0", np.array([1]))])
    assert as_told("sample", bare) == {
        "type": "sample",
        "sequences": [{"tokens": [1], "logprobs": None, "stop_reason": "stop"}],
        "prompt_logprobs": None,
        "topk_prompt_logprobs": None,
    }


def test_protobuf_is_preferred_except_where_sdk_022_would_misread_it():
    both = f"{PROTOBUF}, {JSON}"
    alike = types.ForwardBackwardOutput("ArrayRecord", TRAINING_RESULT.loss_fn_outputs[:2])
    for kind, result, accept, expected in (
        ("forward_backward", alike, both, PROTOBUF),
        ("sample", SAMPLE_RESULT, both, PROTOBUF),
        ("forward_backward", TRAINING_RESULT, PROTOBUF, PROTOBUF),
        ("forward_backward", TRAINING_RESULT, both, JSON),
    ):
        kept, _ = wire.encode_result(result)
        body, content = wire_results.as_accepted(kind, kept, accept)
        assert content == expected
        assert body == kept or (expected == JSON and json.loads(body) == as_told(kind, result))


def columns_of(record, name):
    """The arrays of a record, one a datum, by the rules of the protocol."""
    column = record.fields[name]
    offsets = struct.unpack(f"<{len(column.offsets) // 8}q", column.offsets)
    item, size = {1: ("f", 4), 2: ("q", 8)}[column.dtype]
    for start, end in pairwise(offsets):
        flat = struct.unpack(f"<{(end - start) // size}{item}", column.data[start:end])
        yield np.array(flat).reshape(-1, *column.trailing_shape)


outputs = st.lists(
    st.builds(
        lambda rows, width, counts: {
            "logprobs": np.arange(rows * width, dtype=np.float32).reshape((rows, width)[: 1 + (width > 1)]),
            "counts": np.array(counts),
        },
        st.integers(1, 4),
        st.integers(1, 3),
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=3),
    ),
    max_size=6,
)


@given(arrays=outputs, metrics=st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=3))
def test_training_results_arrive_as_they_were_sent(arrays, metrics):
    rows = [{name: types.TensorData.from_numpy(array) for name, array in row.items()} for row in arrays]
    result = types.ForwardBackwardOutput("ArrayRecord", rows, metrics)
    message = MESSAGES["ForwardBackwardOutput"].FromString(wire.encode_result(result)[0])
    assert dict(message.metrics) == metrics
    assert sum(record.num_datums for record in message.loss_fn_outputs) == len(arrays)
    for name in ("logprobs", "counts"):
        got = [array for record in message.loss_fn_outputs for array in columns_of(record, name)]
        for array, row in zip(got, arrays, strict=True):
            np.testing.assert_array_equal(array, row[name])
    written = as_told("forward_backward", result)
    assert written["metrics"] == metrics
    for output, row in zip(written["loss_fn_outputs"], arrays, strict=True):
        for name, array in row.items():
            assert output[name]["shape"] == list(array.shape)
            np.testing.assert_array_equal(np.reshape(output[name]["data"], array.shape), array)
