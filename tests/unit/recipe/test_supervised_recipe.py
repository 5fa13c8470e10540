"""Supervised training: datums by hand, learning on the bigram service, and a resumed run that equals a whole one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import chz
import numpy as np
import pytest
from fake_service import FakeServiceClient
from hypothesis import given
from hypothesis import strategies as st

from thumbs.clients.types import Datum, EncodedTextChunk, ImageAssetPointerChunk, ModelInput, TensorData
from thumbs.errors import ConfigError, DataError
from thumbs.recipe import any_client
from thumbs.recipe.checkpoints import get_last_checkpoint
from thumbs.recipe.configs import describe
from thumbs.recipe.eval.evaluators import SamplingClientEvaluator
from thumbs.recipe.renderers import TrainOnWhat, get_renderer
from thumbs.recipe.schedules import compute_schedule_lr_multiplier
from thumbs.recipe.supervised import conversation_to_datum, datum_from_model_input_weights, train
from thumbs.recipe.supervised.data import FromConversationFileBuilder, SupervisedDatasetFromHFDataset
from thumbs.recipe.supervised.datums import compute_mean_nll
from thumbs.recipe.supervised.types import ChatDatasetBuilderCommonConfig, SupervisedDataset, SupervisedDatasetBuilder
from thumbs.recipe.tokenizers import get_tokenizer

CHATS = [
    [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for question, answer in [("hi", "hello"), ("bye", "good bye"), ("who", "me"), ("how", "so"), ("why", "because")]
]
COMMON = ChatDatasetBuilderCommonConfig(
    model_name_for_tokenizer="byte-tiny", renderer_name="role_colon", max_length=64, batch_size=2
)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS * 2))
    return path


def config(log_path: Path, chats: Path, **fields) -> train.Config:
    builder = FromConversationFileBuilder(common_config=COMMON, file_path=str(chats), test_size=2)
    fields = {"learning_rate": 0.3, "eval_every": 3, "save_every": 0, **fields}
    return train.Config(log_path=str(log_path), model_name="byte-tiny", dataset_builder=builder, **fields)


def run(config: train.Config, service: FakeServiceClient | None = None) -> FakeServiceClient:
    service = service or FakeServiceClient()
    asyncio.run(train.main(config, service_client=service))
    return service


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_times(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def test_a_datum_by_hand() -> None:
    renderer = get_renderer("role_colon", get_tokenizer("byte-tiny"))
    datum = conversation_to_datum(CHATS[0], renderer, 100, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
    text = b"User: hi\n\nAssistant: hello\n\nUser:"
    reply = len(b" hello\n\nUser:")
    assert datum.model_input.to_ints() == list(text[:-1])
    assert datum.loss_fn_inputs["target_tokens"].tolist() == list(text[1:])
    weights = datum.loss_fn_inputs["weights"].to_numpy()
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights, [0.0] * (len(text) - 1 - reply) + [1 / reply] * reply, rtol=1e-6)
    unreduced = conversation_to_datum(CHATS[0], renderer, None, reduction="none")
    assert unreduced.loss_fn_inputs["weights"].to_numpy().sum() == reply
    cut = conversation_to_datum(CHATS[0], renderer, len(text) - 5, reduction="none")
    assert cut.model_input.length == len(text) - 6
    assert cut.loss_fn_inputs["weights"].to_numpy().sum() == reply - 5


def test_wrong_datums_are_named() -> None:
    tokens = ModelInput.from_ints([1, 2, 3])
    with pytest.raises(DataError, match="2 weights for 3 tokens"):
        datum_from_model_input_weights(tokens, [1.0, 1.0])
    with pytest.raises(DataError, match="a datum needs two"):
        datum_from_model_input_weights(tokens, [1.0, 1.0, 1.0], max_length=1)


def test_mean_nll_by_hand() -> None:
    nll = compute_mean_nll([np.array([-1.0, -2.0]), np.array([-3.0])], [np.array([0.0, 1.0]), np.array([0.5])])
    assert nll == pytest.approx((2.0 + 1.5) / 1.5)


@pytest.mark.parametrize(
    ("schedule", "factors"), [("linear", [1, 0.75, 0.5]), ("cosine", [1, 0.853553, 0.5]), ("constant", [1, 1, 1])]
)
def test_schedules_by_hand(schedule: str, factors: list) -> None:
    assert [compute_schedule_lr_multiplier(schedule, step, 4) for step in (0, 1, 2)] == pytest.approx(factors)


def test_loss_falls_and_files_are_written(tmp_path: Path, chats: Path) -> None:
    run(config(tmp_path / "run", chats, num_epochs=6, recipe_name="mine"))
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == list(range(25))
    first, last = metrics[0], metrics[23]
    assert first["train_mean_nll"] == pytest.approx(np.log(260), rel=1e-5)  # all logits begin at 0
    assert last["train_mean_nll"] < 1.0
    assert metrics[24]["test/nll"] < first["test/nll"] / 3
    assert [row["step"] for row in metrics if "test/nll" in row] == [*range(0, 24, 3), 24]
    assert first["learning_rate"] == 0.3
    assert last["learning_rate"] == pytest.approx(0.3 / 24)
    assert (first["num_sequences"], first["epoch"], last["epoch"]) == (2, 0, 5)
    (checkpoint,) = lines(tmp_path / "run" / "checkpoints.jsonl")
    assert checkpoint == {
        "step": 24,
        "name": "final-000024",
        "batch": 0,
        "epoch": 6,
        "final": True,
        "state_path": "tinker://run-0/weights/final-000024",
        "sampler_path": "tinker://run-0/sampler_weights/final-000024",
    }
    written = json.loads((tmp_path / "run" / "config.json").read_text())
    assert written["recipe_name"] == "mine"
    assert written["dataset_builder"]["common_config"]["batch_size"] == 2


@pytest.mark.parametrize("stop", [3, 4, 7])
def test_a_stopped_and_resumed_run_equals_a_whole_one(tmp_path: Path, chats: Path, stop: int) -> None:
    whole = run(config(tmp_path / "whole", chats, num_epochs=3))
    parts = run(config(tmp_path / "parts", chats, num_epochs=3, max_steps=stop))
    assert get_last_checkpoint(tmp_path / "parts").step == stop
    run(config(tmp_path / "parts", chats, num_epochs=3), parts)
    expected = without_times(lines(tmp_path / "whole" / "metrics.jsonl"))
    assert without_times(lines(tmp_path / "parts" / "metrics.jsonl")) == expected
    final = "tinker://{}/weights/final-000012"
    np.testing.assert_array_equal(
        parts.checkpoints[final.format("run-1")][0], whole.checkpoints[final.format("run-0")][0]
    )


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path, chats: Path) -> None:
    whole = config(tmp_path / "whole", chats, num_epochs=3, save_every=2)
    run(whole)
    service = FakeServiceClient()
    broken = config(tmp_path / "parts", chats, num_epochs=3, save_every=2)
    dataset, test = broken.dataset_builder()

    @dataclass
    class Fails(SupervisedDatasetBuilder):
        def __call__(self):
            return dataset, test

    get_batch, calls = dataset.get_batch, []

    def fails(index):
        calls.append(index)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return get_batch(index)

    dataset.get_batch = fails
    with pytest.raises(KeyboardInterrupt):
        run(chz.replace(broken, dataset_builder=Fails()), service)
    assert get_last_checkpoint(tmp_path / "parts").step == 4
    run(broken, service)
    assert without_times(lines(tmp_path / "parts" / "metrics.jsonl")) == without_times(
        lines(tmp_path / "whole" / "metrics.jsonl")
    )


def test_a_finished_run_is_left_alone(tmp_path: Path, chats: Path) -> None:
    settings = config(tmp_path / "run", chats)
    service = run(settings)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes(), len(service.checkpoints)
    run(settings, service)
    assert ((tmp_path / "run" / "metrics.jsonl").read_bytes(), len(service.checkpoints)) == before


def test_batches_are_submitted_ahead_in_order(tmp_path: Path, chats: Path) -> None:
    alone = run(config(tmp_path / "a", chats, eval_every=0, submit_ahead=0))
    ahead = run(config(tmp_path / "b", chats, eval_every=0, submit_ahead=3))
    steps = [call for call in ahead.calls if call in ("forward_backward", "optim_step")]
    assert steps == ["forward_backward", "optim_step"] * 4
    np.testing.assert_array_equal(*(s.checkpoints["tinker://run-0/weights/final-000004"][0] for s in (alone, ahead)))


def test_weights_of_another_run_and_the_wrong_path(tmp_path: Path, chats: Path) -> None:
    service = run(config(tmp_path / "a", chats))
    path = get_last_checkpoint(tmp_path / "a").state_path
    run(config(tmp_path / "b", chats, load_checkpoint_path=path), service)
    first, second = (lines(tmp_path / name / "metrics.jsonl")[0]["test/nll"] for name in "ab")
    assert second < first
    with pytest.raises(ConfigError, match="state_path"):
        run(config(tmp_path / "c", chats, load_checkpoint_path=path.replace("/weights/", "/sampler_weights/")), service)


def test_rolling_and_token_checkpoints(tmp_path: Path, chats: Path) -> None:
    run(config(tmp_path / "a", chats, num_epochs=2, save_every=4, rolling_save_every=2))
    names = [row["name"] for row in lines(tmp_path / "a" / "checkpoints.jsonl")]
    assert names == ["rolling-000002", "000004", "rolling-000006", "000008", "final-000008"]
    assert "sampler_path" not in lines(tmp_path / "a" / "checkpoints.jsonl")[0]
    run(config(tmp_path / "b", chats, save_every_tokens=120))
    rows = lines(tmp_path / "b" / "metrics.jsonl")
    tokens = np.cumsum([row["num_tokens"] for row in rows if "num_tokens" in row])
    first = int(np.argmax(tokens >= 120)) + 1
    assert lines(tmp_path / "b" / "checkpoints.jsonl")[0]["step"] == first


class CountTokens(SamplingClientEvaluator):
    async def __call__(self, sampling_client):
        logprobs = sampling_client.compute_logprobs(ModelInput.from_ints([1, 2, 3])).result()
        return {"tokens": float(len(logprobs))}


def test_evaluators_of_samplers(tmp_path: Path, chats: Path) -> None:
    settings = config(tmp_path / "a", chats, evaluator_builders=[CountTokens], infrequent_eval_every=0)
    run(settings)
    assert [row["step"] for row in lines(tmp_path / "a" / "metrics.jsonl") if "tokens" in row] == [0, 3, 4]


def test_configs_accept_chz_dataclass_and_plain_subclasses(tmp_path: Path) -> None:
    class Numbers(SupervisedDataset):
        def get_batch(self, index):
            return [Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [1.0, 1.0]})]

        def __len__(self):
            return 2

    @chz.chz
    class ByChz(SupervisedDatasetBuilder):
        size: int
        client: object = None

        def __call__(self):
            return Numbers(), None

    @dataclass(frozen=True)
    class ByDataclass(SupervisedDatasetBuilder):
        size: int = 1

        def __call__(self):
            return Numbers(), None

    class Plain(SupervisedDatasetBuilder):
        def __init__(self, size):
            self.size = size

        def __call__(self):
            return Numbers(), None

    @chz.chz
    class Mine(train.Config):
        extra: int = 3

    for name, builder in {"chz": ByChz(size=1, client=object()), "dataclass": ByDataclass(), "plain": Plain(1)}.items():
        settings = Mine(log_path=str(tmp_path / name), model_name="byte-tiny", dataset_builder=builder)
        assert (settings.extra, settings.save_every, settings.num_epochs) == (3, 20, 1)
        run(settings)
        assert "Plain" in str(describe(settings)) or json.dumps(describe(settings))

    @chz.chz
    class Conversations(FromConversationFileBuilder):
        extra: int = 1

    built = Conversations(common_config=COMMON, file_path="x", extra=2)
    assert (built.extra, built.test_size, built.common_config.batch_size) == (2, 0, 2)
    with pytest.raises(TypeError, match="learningrate"):
        train.Config(log_path="x", model_name="y", dataset_builder=Plain(1), learningrate=1.0)


def test_configs_need_no_chz() -> None:
    code = (
        "import sys; sys.modules['chz'] = None\n"
        "from thumbs.recipe.supervised.train import Config\n"
        "config = Config(log_path='a', model_name='b', dataset_builder=None, max_steps=3)\n"
        "print(config.max_steps, config.learning_rate)\n"
        "try: config.max_steps = 4\n"
        "except AttributeError: print('frozen')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["3", "0.0001", "frozen"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wandb_project": "x"}, "metrics.jsonl"),
        ({"enable_trace": True}, "py-spy"),
        ({"lr_schedule": "wavy"}, "'linear', 'cosine' or 'constant'"),
        ({"num_epochs": 0}, "at least 1"),
        ({"learning_rate": -1.0}, "at least 0"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, chats: Path, fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path / "run", chats, **fields))


def test_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": []}\n{"message": 1}\n')
    builder = FromConversationFileBuilder(common_config=COMMON, file_path=str(path))
    with pytest.raises(DataError, match=r"line 2: must be an object with 'messages'"):
        builder()
    with pytest.raises(ConfigError, match="batch_size=3 with 2 rows"):
        SupervisedDatasetFromHFDataset([1, 2], 3, map_fn=lambda row: row)
    with pytest.raises(ConfigError, match="and not both"):
        SupervisedDatasetFromHFDataset([1, 2], 1)


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own() -> None:
    dataset = SupervisedDatasetFromHFDataset(list(range(10)), 2, flatmap_fn=lambda row: [row])
    orders = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        orders.append([row for index in range(len(dataset)) for row in dataset.get_batch(index)])
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]


class Foreign:
    """Record classes of another client."""

    class EncodedTextChunk:
        def __init__(self, tokens):
            self.tokens = tokens

    class ModelInput:
        def __init__(self, chunks):
            self.chunks = chunks

    class TensorData(TensorData):
        pass

    class Datum:
        def __init__(self, model_input, loss_fn_inputs):
            self.model_input, self.loss_fn_inputs = model_input, loss_fn_inputs


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(-1e6, 1e6, width=32)), min_size=1))
def test_data_are_rebuilt_with_the_classes_of_the_client(pairs: list) -> None:
    tokens, weights = [token for token, _ in pairs], [weight for _, weight in pairs]
    chunks = [EncodedTextChunk(tokens=tokens[:1]), EncodedTextChunk(tokens=tokens[1:])]
    ours = Datum(ModelInput(chunks=chunks), {"target_tokens": tokens, "weights": weights})
    (theirs,) = any_client.to_data([ours], Foreign)
    assert isinstance(theirs, Foreign.Datum)
    assert isinstance(theirs.model_input, Foreign.ModelInput)
    assert [token for chunk in theirs.model_input.chunks for token in chunk.tokens] == tokens
    assert all(isinstance(tensor, Foreign.TensorData) for tensor in theirs.loss_fn_inputs.values())
    assert theirs.loss_fn_inputs["target_tokens"].tolist() == tokens
    assert theirs.loss_fn_inputs["weights"].tolist() == weights
    assert any_client.to_data([theirs], Foreign)[0] is theirs


def test_sparse_inputs_are_rebuilt_dense_and_images_are_refused() -> None:
    sparse = TensorData([1.0, 2.0], "float32", [2, 3], [0, 1, 2], [0, 2])
    (theirs,) = any_client.to_data([Datum(ModelInput.from_ints([4, 5]), {"weights": sparse})], Foreign)
    assert theirs.loss_fn_inputs["weights"].tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]
    image = ModelInput(chunks=[ImageAssetPointerChunk(location="x", format="png")])
    with pytest.raises(DataError, match="chunk 0 of a model input is a ImageAssetPointerChunk"):
        any_client.to_data([Datum(image)], Foreign)


def test_a_server_needs_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tinker", None)
    with pytest.raises(ConfigError, match="pip install tinker"):
        any_client.connect("http://127.0.0.1:1")
