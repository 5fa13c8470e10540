"""Conversations to datums, and datasets of them."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.clients.types import Datum
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.configs import config_class
from thumbs.recipe.renderers import Message, Renderer, TrainOnWhat, get_renderer
from thumbs.recipe.supervised.datums import Reduction, datum_from_model_input_weights
from thumbs.recipe.supervised.types import ChatDatasetBuilder, SupervisedDataset, SupervisedDatasetBuilder
from thumbs.recipe.tokenizers import get_tokenizer


def conversation_to_datum(
    conversation: Sequence[Message],
    renderer: Renderer,
    max_length: int | None,
    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
    reduction: Reduction = "mean",
) -> Datum:
    """The datum of a conversation; its weights sum to 1 unless `reduction` is "none"."""
    model_input, weights = renderer.build_supervised_example(conversation, train_on_what)
    return datum_from_model_input_weights(model_input, weights, max_length, reduction)


class SupervisedDatasetFromHFDataset(SupervisedDataset):
    """Batches of rows of a `datasets.Dataset`, or of any sequence of rows, in another order each epoch.

    map_fn makes one datum of a row, flatmap_fn any number. Rows that do not fill the last batch sit an epoch out.
    """

    def __init__(
        self,
        hf_dataset: Any,
        batch_size: int,
        map_fn: Callable[[Any], Datum] | None = None,
        flatmap_fn: Callable[[Any], list[Datum]] | None = None,
    ) -> None:
        """Raises ConfigError unless exactly one function is given and a batch can be filled."""
        self._to_data = _row_function(map_fn, flatmap_fn)
        _check_batch_size(batch_size, len(hf_dataset))
        self._rows, self._batch_size = hf_dataset, batch_size
        self._order = np.arange(len(hf_dataset))

    def get_batch(self, index: int) -> list[Datum]:
        """The datums of a batch."""
        places = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return [datum for place in places for datum in self._to_data(self._rows[int(place)])]

    def __len__(self) -> int:
        return len(self._rows) // self._batch_size

    def set_epoch(self, seed: int = 0) -> None:
        """Shuffle by the seed."""
        self._order = np.random.default_rng(seed).permutation(len(self._rows))


class StreamingSupervisedDatasetFromHFDataset(SupervisedDataset):
    """Batches of a streamed `datasets.IterableDataset` of `length` rows, which can only be read forwards.

    map_fn makes one datum of a row, flatmap_fn any number. buffer_size: rows that are shuffled at a time.
    """

    def __init__(
        self,
        hf_dataset: Any,
        batch_size: int,
        length: int,
        map_fn: Callable[[Any], Datum] | None = None,
        flatmap_fn: Callable[[Any], list[Datum]] | None = None,
        buffer_size: int = 10_000,
    ) -> None:
        """Raises ConfigError unless exactly one function is given and a batch can be filled."""
        self._to_data = _row_function(map_fn, flatmap_fn)
        _check_batch_size(batch_size, length)
        self._rows = hf_dataset.shuffle(seed=0, buffer_size=buffer_size)
        self._batch_size, self._length = batch_size, length
        self.set_epoch(0)

    def get_batch(self, index: int) -> list[Datum]:
        """The datums of a batch; raises DataError for one that was passed before, or lies behind the last row."""
        first = index * self._batch_size
        if first < self._next:
            raise DataError(f"batch {index} lies behind in the stream; set_epoch begins at the first again")
        rows = list(itertools.islice(self._stream, first - self._next, first - self._next + self._batch_size))
        self._next = first + self._batch_size
        if len(rows) < self._batch_size:
            raise DataError(f"the stream ended in batch {index}; length={self._length} is more rows than it has")
        return [datum for row in rows for datum in self._to_data(row)]

    def __len__(self) -> int:
        return self._length // self._batch_size

    def set_epoch(self, seed: int = 0) -> None:
        """Begin again, in the order of this seed."""
        self._rows.set_epoch(seed)
        self._stream, self._next = iter(self._rows), 0


def _row_function(
    map_fn: Callable[[Any], Datum] | None, flatmap_fn: Callable[[Any], list[Datum]] | None
) -> Callable[[Any], list[Datum]]:
    if (map_fn is None) == (flatmap_fn is None):
        raise ConfigError("give map_fn or flatmap_fn, and not both")
    return flatmap_fn or (lambda row: [map_fn(row)])  # type: ignore[misc]


def _check_batch_size(batch_size: int, rows: int) -> None:
    if not 1 <= batch_size <= rows:
        raise ConfigError(f"batch_size={batch_size} with {rows} rows; it must be from 1 to that number")


@config_class
class FromConversationFileBuilder(ChatDatasetBuilder):
    """Conversations of a JSONL file with {"messages": [{"role", "content"}, …]} in each line.

    test_size: how many conversations are held out for testing, chosen by shuffle_seed.
    """

    file_path: str
    test_size: int = 0
    shuffle_seed: int = 0

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, where test_size is not 0, to test on; DataError names a broken line."""
        rows = read_jsonl(self.file_path, "messages")
        order = np.random.default_rng(self.shuffle_seed).permutation(len(rows))
        return conversation_datasets(self, [rows[i]["messages"] for i in order], self.test_size)


@config_class
class HFDatasetSource:
    """A dataset of the hub, or of a folder, with a column of conversations.

    weight: its share in a mix; None in all sources is the number of their rows.
    """

    path: str
    name: str | None = None
    split: str = "train"
    weight: float | None = None
    message_field: str = "messages"


@config_class
class InterleavedChatDatasetBuilder(ChatDatasetBuilder):
    """Conversations of several datasets, drawn at random by their weights with `datasets.interleave_datasets`.

    test_size: how many of them are held out for testing, chosen by shuffle_seed.
    """

    sources: list[HFDatasetSource]
    test_size: int = 0
    shuffle_seed: int = 0
    stopping_strategy: str = "all_exhausted"

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, where test_size is not 0, to test on; ConfigError for weights that do not fit."""
        hub = _hub()
        columns = [
            hub.load_dataset(source.path, name=source.name, split=source.split)
            .select_columns([source.message_field])
            .rename_columns({source.message_field: "messages"} if source.message_field != "messages" else {})
            for source in self.sources
        ]
        weights = [
            len(rows) if source.weight is None else source.weight
            for source, rows in zip(self.sources, columns, strict=True)
        ]
        given = {source.weight is not None for source in self.sources}
        if len(given) != 1 or min(weights) < 0 or sum(weights) == 0:
            raise ConfigError(f"weights {[source.weight for source in self.sources]}; give each source one, or none")
        mixed = hub.interleave_datasets(
            columns,
            probabilities=[weight / sum(weights) for weight in weights],
            seed=self.shuffle_seed,
            stopping_strategy=self.stopping_strategy,
        ).shuffle(seed=self.shuffle_seed)
        return conversation_datasets(self, mixed["messages"], self.test_size)


@config_class
class ListSFTDatasetBuilder(SupervisedDatasetBuilder):
    """Conversations that are in memory already; the last batch is filled up from the beginning."""

    conversations: list[Any]
    model_name: str
    renderer_name: str
    batch_size: int

    def __call__(self) -> tuple[SupervisedDataset, None]:
        """The dataset to train on; raises DataError where there is no conversation."""
        if not self.conversations:
            raise DataError("conversations is empty; give at least one")
        renderer = get_renderer(self.renderer_name, get_tokenizer(self.model_name))
        missing = -len(self.conversations) % self.batch_size
        rows = [*self.conversations, *itertools.islice(itertools.cycle(self.conversations), missing)]
        return SupervisedDatasetFromHFDataset(
            rows, self.batch_size, lambda row: conversation_to_datum(row, renderer, None)
        ), None


def conversation_datasets(
    builder: ChatDatasetBuilder, conversations: Sequence[Sequence[Message]], test_size: int
) -> tuple[SupervisedDataset, SupervisedDataset | None]:
    """The first `test_size` conversations to test on, in one batch, and the others to train on, as datums."""
    if test_size and test_size >= len(conversations):
        raise ConfigError(f"test_size={test_size} of {len(conversations)} conversations; leave some to train on")
    renderer, config = builder.renderer, builder.common_config

    def to_datum(conversation: Sequence[Message]) -> Datum:
        return conversation_to_datum(conversation, renderer, config.max_length, builder.train_on_what)

    train = SupervisedDatasetFromHFDataset(conversations[test_size:], config.batch_size, to_datum)
    return train, SupervisedDatasetFromHFDataset(conversations[:test_size], test_size, to_datum) if test_size else None


def _hub() -> Any:
    """The `datasets` package."""
    try:
        return importlib.import_module("datasets")
    except ImportError:
        raise ConfigError("datasets of the hub need the package `datasets`: pip install datasets") from None


def read_jsonl(path: str | Path, key: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file; raises DataError naming the line that is not one, or lacks `key`."""
    file = Path(path).expanduser()
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {file}: {error}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or key not in row:
            raise DataError(f"{file}, line {number}: must be an object with {key!r}")
        rows.append(row)
    if not rows:
        raise DataError(f"{file} holds no rows")
    return rows
