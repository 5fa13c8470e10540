"""The clients' types have the public face of the SDK's, cost little, and refuse what no service could use."""

import copy
import dataclasses
import pickle
import re
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thumbs.clients import types
from thumbs.errors import DataError

# What `fields()` below tells of SDK 0.38.0's classes, private fields apart and 1 written 1.0; "!" is a required field.
SDK_FIELDS = {
    "AdamParams": "learning_rate=0.0001 beta1=0.9 beta2=0.95 eps=1e-12 weight_decay=0.0 grad_clip_norm=0.0",
    "LoraConfig": "rank=! seed=None train_unembed=True train_mlp=True train_attn=True",
    "SamplingParams": "max_tokens=None seed=None stop=None temperature=1.0 top_k=-1 top_p=1.0",
    "EncodedTextChunk": "tokens=! type=encoded_text",
    "ImageChunk": "data=! format=! expected_tokens=None type=image",
    "ImageAssetPointerChunk": "format=! location=! expected_tokens=None type=image_asset_pointer",
    "ForwardBackwardOutput": "loss_fn_output_type=! loss_fn_outputs=! metrics={}",
    "SampleResponse": "sequences=! prompt_logprobs_np=None topk_prompt_logprobs_np=None target_prompt_logprobs=None "
    "prompt_cache_hit_tokens=0 prompt_alt_tokens=None",
    "OptimStepResponse": "metrics=None",
    "SaveWeightsResponse": "path=! type=None",
    "SaveWeightsForSamplerResponse": "path=! type=None",
    "LoadWeightsResponse": "path=None model_id=None type=None",
    "ModelData": "arch=None model_name=None tokenizer_id=None",
    "SupportedModel": "model_name=None max_context_length=None trainable=None sampleable=None",
    "GetServerCapabilitiesResponse": "supported_models=!",
    "Checkpoint": "checkpoint_id=! checkpoint_type=! time=! tinker_path=! size_bytes=None public=False "
    "user_metadata=None expires_at=None",
    "CheckpointsListResponse": "checkpoints=! cursor=None",
    "Cursor": "offset=! limit=! total_count=!",
    "TrainingRun": "training_run_id=! base_model=! model_owner=! is_lora=! corrupted=False lora_rank=None "
    "last_request_time=! last_checkpoint=None last_sampler_checkpoint=None user_metadata=None",
    "TrainingRunsResponse": "training_runs=! cursor=!",
    "ParsedCheckpointTinkerPath": "tinker_path=! training_run_id=! checkpoint_type=! checkpoint_id=!",
}


def fields(record):
    """Field names and defaults of a pydantic model or a dataclass."""
    if issubclass(record, pydantic.BaseModel):
        return {name: "!" if f.is_required() else str(f.default) for name, f in record.model_fields.items()}
    found = {}
    for field in dataclasses.fields(record):
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        found[field.name] = "!" if default is dataclasses.MISSING else str(default)
    return found


@pytest.mark.parametrize("name", SDK_FIELDS)
def test_names_and_defaults_are_those_of_the_sdk(name):
    assert fields(getattr(types, name)) == dict(pair.split("=", 1) for pair in SDK_FIELDS[name].split())


def test_importing_the_types_imports_no_torch():
    code = "import sys, thumbs.clients.types; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---- model inputs ----


def test_a_model_input_is_its_chunks_end_to_end():
    first = types.ModelInput.from_ints([1, 2, 3])
    longer = first.append_int(4).append(types.EncodedTextChunk(tokens=(5, 6)))
    assert longer.to_ints() == [1, 2, 3, 4, 5, 6]
    assert longer.to_numpy().dtype == np.int64
    assert (first.length, longer.length, len(longer.chunks)) == (3, 6, 3)
    assert first.to_ints() == [1, 2, 3]
    assert types.ModelInput.empty().to_ints() == []


def test_a_list_of_tokens_stays_a_list():
    assert types.EncodedTextChunk(tokens=[7, 8]).tokens == [7, 8]


def _chunk():
    return types.EncodedTextChunk(tokens=[4, 5])


def _sequence(**given):
    return types.SampledSequence("stop", **given)


def _checkpoint():
    return types.Checkpoint(
        checkpoint_id="weights/a", checkpoint_type="training", time=datetime(2026, 1, 1, tzinfo=UTC), tinker_path="p"
    )


_CURSOR = {"offset": 0, "limit": 1, "total_count": 1}
_RUN = {"training_run_id": "r", "base_model": "b", "model_owner": "o", "is_lora": True}

OWNING = {  # what is given by name, and what makes the type of it; every list, mapping and array of every type
    "tokens": ([1, 2], lambda x: types.EncodedTextChunk(tokens=x)),
    "tokens of an array": (np.array([1, 2]), lambda x: types.EncodedTextChunk(tokens=x)),
    "from_ints": ([1, 2], types.ModelInput.from_ints),
    "from_ints of an array": (np.array([1, 2]), types.ModelInput.from_ints),
    "from_ints of a tensor": (torch.tensor([1, 2]), types.ModelInput.from_ints),
    "chunks": ([_chunk()], lambda x: types.ModelInput(chunks=x)),
    "data": ([1.0, 2.0], lambda x: types.TensorData(x, "float32")),
    "data of an array": (np.ones(2, np.float32), lambda x: types.TensorData(x, "float32")),
    "data of integers": (np.ones(2, np.int64), lambda x: types.TensorData(x, "int64")),
    "shape": ([2], lambda x: types.TensorData([1.0, 2.0], "float32", x)),
    "from_numpy": (np.ones(2, np.float32), types.TensorData.from_numpy),
    "from_torch": (torch.ones(2), types.TensorData.from_torch),
    "from_torch of integers": (torch.ones(2, dtype=torch.int64), types.TensorData.from_torch),
    "crow": ([0, 1], lambda x: types.TensorData([1.0], "float32", [1, 2], x, [1])),
    "crow of an array": (np.array([0, 1]), lambda x: types.TensorData([1.0], "float32", [1, 2], x, [1])),
    "col of an array": (np.array([1]), lambda x: types.TensorData([1.0], "float32", [1, 2], [0, 1], x)),
    "loss_fn_inputs": ({"weights": [1.0]}, lambda x: types.Datum(types.ModelInput.from_ints([1]), x)),
    "weights": ([1.0], lambda x: types.Datum(types.ModelInput.from_ints([1]), {"weights": x})),
    "weights of an array": (np.ones(1, np.float32), lambda x: types.Datum(types.ModelInput.from_ints([1]), {"w": x})),
    "weights of a tensor": (torch.ones(1), lambda x: types.Datum(types.ModelInput.from_ints([1]), {"weights": x})),
    "stop texts": (["a", "b"], lambda x: types.SamplingParams(stop=x)),
    "stop tokens": ([1, 2], lambda x: types.SamplingParams(stop=x)),
    "tokens_np": (np.array([1, 2], np.int32), lambda x: _sequence(tokens_np=x)),
    "logprobs_np": (np.ones(2, np.float32), lambda x: _sequence(logprobs_np=x)),
    "token_ids": (np.ones((2, 2), np.int32), lambda x: types.TopkLogprobs(x, np.ones((2, 2), np.float32))),
    "top logprobs": (np.ones((2, 2), np.float32), lambda x: types.TopkLogprobs(np.ones((2, 2), np.int32), x)),
    "sequences": ([_sequence()], types.SampleResponse),
    "prompt_logprobs_np": (np.ones(2, np.float32), lambda x: types.SampleResponse([], prompt_logprobs_np=x)),
    "loss_fn_outputs": ([{"a": types.TensorData([1.0], "float32")}], lambda x: types.ForwardBackwardOutput("s", x)),
    "an output": ({"a": types.TensorData([1.0], "float32")}, lambda x: types.ForwardBackwardOutput("s", [x])),
    "metrics": ({"loss:sum": 1.0}, lambda x: types.ForwardBackwardOutput("s", [], x)),
    "step metrics": ({"loss": 1.0}, lambda x: types.OptimStepResponse(metrics=x)),
    "supported_models": ([types.SupportedModel()], lambda x: types.GetServerCapabilitiesResponse(supported_models=x)),
    "checkpoints": ([_checkpoint()], lambda x: types.CheckpointsListResponse(checkpoints=x)),
    "checkpoint metadata": ({"a": "b"}, lambda x: types.Checkpoint(**{**dict(_checkpoint()), "user_metadata": x})),
    "urls": ({"a": "b"}, lambda x: types.ExternalWeightsUrlsResponse(urls=x, expires=datetime(2026, 1, 1, tzinfo=UTC))),
    "run metadata": (
        {"a": "b"},
        lambda x: types.TrainingRun(**_RUN, last_request_time=datetime(2026, 1, 1, tzinfo=UTC), user_metadata=x),
    ),
    "training_runs": ([], lambda x: types.TrainingRunsResponse(training_runs=x, cursor=_CURSOR)),
    "training_run_ids": (["a"], lambda x: types.GetSessionResponse(training_run_ids=x, sampler_ids=[])),
    "sampler_ids": (["a"], lambda x: types.GetSessionResponse(training_run_ids=[], sampler_ids=x)),
    "session metadata": (
        {"a": "b"},
        lambda x: types.GetSessionResponse(training_run_ids=[], sampler_ids=[], user_metadata=x),
    ),
    "sessions": (["a"], lambda x: types.ListSessionsResponse(sessions=x)),
}


@pytest.mark.parametrize("name", OWNING)
def test_what_happens_to_a_container_after_it_was_given_is_no_matter(name):
    given, make = copy.deepcopy(OWNING[name])
    made = make(given)
    before = pickle.dumps(made)
    if isinstance(given, (np.ndarray, torch.Tensor)):
        given[...] = 77
    elif isinstance(given, dict):
        given.clear()
        given["other"] = 77
    else:
        given[:] = [*given[1:], 77]
    assert pickle.dumps(made) == before


def test_every_container_of_every_type_is_in_the_test_above():
    """A new field that holds one has to be added there."""
    container = re.compile("list|dict|Sequence|Mapping|ndarray")
    classes = [name for name in types.__all__ if isinstance(getattr(types, name), type)]
    holders = {name for name in classes if container.search(str(_hints(name)))}
    makers = {type(make(copy.deepcopy(given))).__name__ for given, make in OWNING.values()}
    assert holders - makers <= {"PromptAltTokens", "LossFnInputs", "LossFnOutput"}


def _hints(name):
    found = getattr(types, name)
    return getattr(found, "__annotations__", {})


@pytest.mark.parametrize("same", [(1, 2), np.array([1, 2], np.int32), torch.tensor([1, 2]), range(1, 3)])
def test_tokens_may_be_any_row_of_integers(same):
    assert types.ModelInput.from_ints(same) == types.ModelInput.from_ints([1, 2])
    assert types.ModelInput.from_ints(same) != types.ModelInput.from_ints([1, 3])


@pytest.mark.parametrize("wrong", [[1.5], ["1"], [[1], [2]], [[1], [2, 3]], 5, "12", None, [True, False], [2**70]])
def test_other_tokens_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens"):
        types.ModelInput.from_ints(wrong)


def test_json_goes_there_and_back():
    chunks = [
        types.EncodedTextChunk(tokens=np.array([1, 2])),
        types.ImageChunk(data=b"\x00\xff", format="png", expected_tokens=3),
        types.ImageAssetPointerChunk(location="a.png", format="png", expected_tokens=4),
    ]
    whole = types.ModelInput(chunks=chunks)
    written = whole.model_dump_json()
    assert '"tokens":[1,2]' in written
    assert '"data":"AP8="' in written
    assert types.ModelInput.model_validate_json(written) == whole
    assert whole.length == 9


def test_images_have_no_token_ids_and_a_length_only_when_told():
    image = types.ImageChunk(data=b"x", format="jpeg")
    with pytest.raises(DataError, match=r"chunk 1 .*'image'"):
        types.ModelInput.from_ints([1]).append(image).to_ints()
    with pytest.raises(DataError, match="expected_tokens"):
        _ = image.length


def test_a_mistyped_setting_is_an_error_but_not_a_foreign_sampling_field():
    with pytest.raises(pydantic.ValidationError, match="learning_rat"):
        types.AdamParams(learning_rat=1.0)  # type: ignore[call-arg]
    assert types.SamplingParams(max_tokens=3, stop_token_ids=[1]).max_tokens == 3  # type: ignore[call-arg]


# ---- tensors ----

TABLE = np.array([[0, 0, 0, 0, 5], [0, 0, 0, 0, 0], [0, -2, 0, 0, 0]], np.float32)
CSR = types.TensorData([5.0, -2.0], "float32", [3, 5], [0, 1, 1, 2], [4, 1])


def test_a_sparse_tensor_is_made_dense_only_on_request():
    assert CSR.data == [5.0, -2.0]
    np.testing.assert_array_equal(CSR.to_numpy(), TABLE)
    assert CSR.to_numpy().dtype == np.float32
    np.testing.assert_array_equal(CSR.to_numpy(pad_value=-1), np.where(TABLE == 0, -1, TABLE))
    assert torch.equal(CSR.to_torch(), torch.from_numpy(TABLE))
    assert CSR.tolist() == TABLE.tolist()
    with pytest.raises(TypeError):
        CSR.to_numpy(pad_value=0.5)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@given(
    shape=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    share=st.floats(0, 1),
    pad=st.integers(-2, 2),
    dtype=st.sampled_from([torch.int64, torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_sparse_tensors_are_those_of_torch_and_used_only_where_smaller(shape, share, pad, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    listed = torch.rand(shape, generator=generator) < share
    dense = torch.where(listed, torch.randint(3, 9, shape, generator=generator), pad).to(dtype)
    got = types.TensorData.from_torch_sparse(dense, pad_value=pad)
    assert torch.equal(got.to_torch(pad_value=pad).to(dtype), dense)
    smaller = shape[0] + 1 + 2 * int(listed.sum()) < shape[0] * shape[1]
    assert (got.sparse_crow_indices is not None) == smaller
    if smaller:
        theirs = (dense - pad).float().to_sparse_csr()
        assert got.sparse_crow_indices == theirs.crow_indices().tolist()
        assert got.sparse_col_indices == theirs.col_indices().tolist()
        assert got.data == (theirs.values() + pad).tolist()


def test_a_table_as_large_as_its_sparse_form_stays_dense():
    assert types.TensorData.from_torch_sparse(torch.tensor([[1, 0, 0, 0]])).sparse_crow_indices is None


def test_dtypes_are_the_two_of_the_wire():
    assert types.TensorData.from_numpy(np.array([1.5], np.float64)).dtype == "float32"
    assert types.TensorData.from_numpy(np.array([[1], [2]], np.uint8)).values.dtype == np.int64
    halves = types.TensorData.from_torch(torch.tensor([0.5], dtype=torch.bfloat16, requires_grad=True))
    assert (halves.dtype, halves.data, halves.shape) == ("float32", [0.5], [1])
    assert types.TensorData([1, 2, 3, 4], "int64", [2, 2]).tolist() == [[1, 2], [3, 4]]


def test_a_read_only_array_becomes_a_tensor_that_can_be_written():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    assert types.TensorData.from_numpy(array).to_numpy().flags.writeable


def test_tensors_survive_pickle():
    again = pickle.loads(pickle.dumps(CSR))  # noqa: S301  # our own bytes; sampling clients go to other processes
    assert again.tolist() == TABLE.tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2, 3], "int64", [2, 2]), "3 numbers for the shape"),
        (([], "int64", [-1, 0]), "0 numbers for the shape"),
        (([1], "int32"), "'int32'.*'int64' or 'float32'"),
        (([1.5], "int64"), "whole numbers"),
        (([float("nan")], "int64"), "whole numbers"),
        ((np.array([2**63], np.uint64), "int64"), "whole numbers"),
        (([[1], [2, 3]], "float32"), "rectangular"),
        ((["1"], "float32"), "rectangular"),
        (([None], "float32"), "rectangular"),
        (([1], "int64", [1, 2], [0, 1]), "needs shape"),
        (([1], "int64", None, [0, 1], [0]), "needs shape"),
        (([1], "int64", [2], [0, 1], [0]), "two dimensions"),
        (([1], "int64", [-1, 2], [0, 1], [0]), "two dimensions"),
        (([1, 2], "int64", [1, 2], [0, 2], [0]), "2 values and 1 column"),
        (([1], "int64", [2, 2], [0, 1], [0]), "3 rising numbers"),
        (([1], "int64", [2, 2], [0, 0, 0], [0]), "3 rising numbers"),
        (([1], "int64", [2, 2], [1, 1, 1], [0]), "3 rising numbers"),
        (([1], "int64", [2, 2], [0, 2, 1], [0]), "3 rising numbers"),
        (([1], "int64", [2, 2], [0, -(2**63), 1], [0]), "3 rising numbers"),
        (([1], "int64", [1, 2], [0, 1], [2]), "from 0 to 1, got 2"),
        (([1], "int64", [1, 2], [0, 1], [-1]), "from 0 to 1, got -1"),
        (([1, 2], "int64", [1, 2], [0, 2], [1, 0]), "rise"),
        (([1, 2], "int64", [1, 2], [0, 2], [1, 1]), "rise"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        types.TensorData(*arguments)


def test_column_indices_start_anew_in_each_row():
    assert types.TensorData([1, 2, 3], "int64", [3, 2], [0, 2, 2, 3], [0, 1, 0]).tolist() == [[1, 2], [0, 0], [3, 0]]


# ---- datums ----


def test_loss_inputs_get_the_dtype_of_the_protocol():
    row = types.Datum(
        types.ModelInput.from_ints([1, 2]),
        {
            "target_tokens": [2.0, 3.0],
            "weights": torch.tensor([0, 1]),
            "advantages": np.array([1.5, 2.5]),
            "logprobs": [1, 2],
            "mask": [1, 0],
            "note": [0.5, 1],
            "table": [[1, 2], [3, 4]],
        },
    )
    assert {key: tensor.dtype for key, tensor in row.loss_fn_inputs.items()} == {
        "target_tokens": "int64",
        "weights": "float32",
        "advantages": "float32",
        "logprobs": "float32",
        "mask": "int64",
        "note": "float32",
        "table": "int64",
    }
    assert row.loss_fn_inputs["table"].shape == [2, 2]
    assert row.loss_fn_inputs["advantages"].tolist() == [1.5, 2.5]


def test_two_dimensional_targets_from_torch_become_sparse():
    inputs = {key: torch.from_numpy(TABLE) for key in ("target_tokens", "weights", "advantages")}
    row = types.Datum(model_input=types.ModelInput.empty(), loss_fn_inputs=inputs)
    sparse = {key: tensor.sparse_crow_indices is not None for key, tensor in row.loss_fn_inputs.items()}
    assert sparse == {"target_tokens": True, "weights": True, "advantages": False}
    assert row.loss_fn_inputs["weights"].tolist() == TABLE.tolist()


@pytest.mark.parametrize("wrong", [[[1], [2, 3]], ["a"], {"a": 1}, None])
@pytest.mark.parametrize("key", ["weights", "mine"])
def test_an_error_names_the_loss_input(key, wrong):
    with pytest.raises(DataError, match=rf"loss_fn_inputs\['{key}'\]"):
        types.Datum(types.ModelInput.empty(), {key: wrong})


# ---- results ----


def test_loss_is_the_mean_over_weighted_tokens():
    output = types.ForwardBackwardOutput("ArrayRecord", [], {"loss:sum": 6.0, "tokens:sum": 4.0})
    assert output.loss == 1.5
    assert types.ForwardBackwardOutput("ArrayRecord", [], {"loss:sum": 0.0, "tokens:sum": 0.0}).loss == 0.0
    with pytest.raises(DataError, match="tokens:sum"):
        _ = types.ForwardBackwardOutput("ArrayRecord", [], {"loss:sum": 6.0}).loss


def test_sampled_arrays_are_also_lists():
    topk = types.TopkLogprobs(
        np.array([[0, 0], [5, 6], [7, 0]], np.int32),
        np.array([[-99999, -99999], [-1, -2], [-0.5, -99999]], np.float32),
    )
    pairs = [None, [(5, -1.0), (6, -2.0)], [(7, -0.5)]]
    sequence = types.SampledSequence(
        "stop", "q0", np.array([5, 6, 7], np.int32), np.array([-1, -2, -0.5], np.float32), topk
    )
    assert (sequence.tokens, sequence.logprobs) == ([5, 6, 7], [-1.0, -2.0, -0.5])
    assert sequence.topk_logprobs == pairs
    answer = types.SampleResponse([sequence], np.array([np.nan, -1.5], np.float32), topk)
    assert answer.prompt_logprobs == [None, -1.5]
    assert answer.topk_prompt_logprobs == pairs
    bare = types.SampleResponse([types.SampledSequence("length")])
    assert (bare.prompt_logprobs, bare.topk_prompt_logprobs) == (None, None)
    assert (bare.sequences[0].tokens, bare.sequences[0].logprobs, bare.sequences[0].topk_logprobs) == ([], None, None)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("tinker://s:train:0/weights/a", "training"),
        ("tinker://s:train:0/sampler_weights/a", "sampler"),
        ("mint://s:train:0/external_weights/a", "external"),
    ],
)
def test_checkpoint_paths_are_taken_apart(path, kind):
    parsed = types.ParsedCheckpointTinkerPath.from_tinker_path(path)
    assert (parsed.tinker_path, parsed.training_run_id, parsed.checkpoint_type) == (path, "s:train:0", kind)
    assert parsed.checkpoint_id == path.split("/", 3)[3]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "ckpt_1",
        "tinker://r/weights",
        "tinker://r/weights/a/b",
        "tinker://r/other/a",
        "tinker:///weights/a",
        "http://r/weights/a",
        "tinker://r/weights/",
    ],
)
def test_other_paths_are_refused_by_name(path):
    with pytest.raises(DataError, match="tinker://<training run>/<kind>/<name>"):
        types.ParsedCheckpointTinkerPath.from_tinker_path(path)
