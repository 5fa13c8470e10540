"""Datasets of the hub's kinds, of lists and of streams, and bits a byte: by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest

from thumbs.clients.types import Datum, ModelInput
from thumbs.data.tokenizers import ByteTokenizer
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.supervised import (
    ChatDatasetBuilderCommonConfig,
    InterleavedChatDatasetBuilder,
    ListSFTDatasetBuilder,
    StreamingSupervisedDatasetFromHFDataset,
    compute_bpb,
)
from thumbs.recipe.supervised.data import HFDatasetSource

COMMON = ChatDatasetBuilderCommonConfig(
    model_name_for_tokenizer="byte-tiny", renderer_name="chat_template", max_length=None, batch_size=2
)


def chat(word: str) -> list[dict]:
    return [{"role": "user", "content": "q"}, {"role": "assistant", "content": word}]


def words_of(data: list[Datum]) -> list[str]:
    """The trained word of each datum."""
    return [
        ByteTokenizer().decode(
            [
                token
                for token, weight in zip(
                    one.loss_fn_inputs["target_tokens"].tolist(), one.loss_fn_inputs["weights"].tolist(), strict=True
                )
                if weight
            ]
        )
        for one in data
    ]


def test_bits_a_byte_by_hand() -> None:
    """Four bytes are trained on, two of them one token; neither special tokens nor those without weight count."""
    texts = {1: "a", 2: "é", 3: "b", 4: "<end>", 5: "!"}
    tokenizer = SimpleNamespace(decode=lambda tokens: "".join(texts[t] for t in tokens), all_special_ids=[4])
    bits = compute_bpb(
        [[-1.0, -2.0, -3.0, -9.0], [-4.0]], [[0.5, 0.5, 0.0, 1.0], [2.0]], [[1, 2, 3, 4], [5]], tokenizer
    )
    assert bits == pytest.approx((1 + 2 + 4) / math.log(2) / 4)
    assert math.isnan(compute_bpb([[-1.0]], [[0.0]], [[1]], tokenizer))


def test_bytes_of_a_letter_in_two_tokens_are_counted_once() -> None:
    tokens = list("☃".encode())
    assert compute_bpb([[-1.0] * 3], [[1.0] * 3], [tokens], ByteTokenizer()) == pytest.approx(1 / math.log(2))


def test_a_list_of_conversations_fills_its_last_batch_from_the_beginning() -> None:
    builder = ListSFTDatasetBuilder(
        conversations=[chat(word) for word in "abc"],
        model_name="byte-tiny",
        renderer_name="chat_template",
        batch_size=2,
    )
    dataset, test = builder()
    assert (len(dataset), test) == (2, None)
    words = [word for index in range(2) for word in words_of(dataset.get_batch(index))]
    assert words == ["a", "b", "c", "a"]
    with pytest.raises(DataError, match="conversations is empty"):
        ListSFTDatasetBuilder(conversations=[], model_name="byte-tiny", renderer_name="chat_template", batch_size=2)()


def stream(count: int, length: int, batch_size: int = 2) -> StreamingSupervisedDatasetFromHFDataset:
    rows = datasets.Dataset.from_list([{"n": n} for n in range(count)]).to_iterable_dataset()
    return StreamingSupervisedDatasetFromHFDataset(
        rows, batch_size, length, map_fn=lambda row: Datum(ModelInput.from_ints([row["n"]])), buffer_size=3
    )


def numbers(data: list[Datum]) -> list[int]:
    return [one.model_input.to_ints()[0] for one in data]


def test_a_stream_is_read_forwards_and_begins_anew() -> None:
    dataset = stream(7, 7)
    assert len(dataset) == 3
    first = [numbers(dataset.get_batch(index)) for index in range(3)]
    assert len({n for batch in first for n in batch}) == 6
    dataset.set_epoch(0)
    assert numbers(dataset.get_batch(2)) == first[2]  # those before it are passed over
    with pytest.raises(DataError, match="batch 1 lies behind"):
        dataset.get_batch(1)
    with pytest.raises(DataError, match="length=9 is more rows"):
        stream(7, 9).get_batch(3)
    with pytest.raises(ConfigError, match="batch_size=8 with 7 rows"):
        stream(7, 7, 8)


def source(folder: Path, name: str, words: str, **fields) -> HFDatasetSource:
    field = fields.get("message_field", "messages")
    path = folder / name
    path.mkdir()
    rows = [json.dumps({field: chat(word), "other": 1}) + "\n" for word in words]
    (path / "train.jsonl").write_text("".join(rows))
    return HFDatasetSource(path=str(path), **fields)


@pytest.mark.parametrize(
    ("weights", "counts"),
    [
        ((None, None), {"a": 6, "b": 6}),
        ((1.0, 0.0), {"a": 6, "b": 0}),
    ],
)
def test_several_datasets_are_mixed_by_their_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: tuple, counts: dict
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    sources = [
        source(tmp_path, "one", "aaaaaa", weight=weights[0]),
        source(tmp_path, "two", "bbbbbb", weight=weights[1], message_field="talk"),
    ]
    strategy = "all_exhausted_without_replacement" if weights[1] is None else "first_exhausted"
    builder = InterleavedChatDatasetBuilder(
        common_config=COMMON, sources=sources, test_size=2, stopping_strategy=strategy
    )
    train, test = builder()
    assert test is not None
    words = [word for index in range(len(train)) for word in words_of(train.get_batch(index))]
    words += words_of(test.get_batch(0))
    assert {word: words.count(word) for word in "ab"} == counts
    assert (len(test), len(test.get_batch(0))) == (1, 2)


@pytest.mark.parametrize("weights", [(1.0, None), (0.0, 0.0), (-1.0, 2.0)])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, weights: tuple) -> None:
    sources = [source(tmp_path, str(n), "ab", weight=weight) for n, weight in enumerate(weights)]
    with pytest.raises(ConfigError, match="give each source one, or none"):
        InterleavedChatDatasetBuilder(common_config=COMMON, sources=sources)()
