"""Conversations to datums, and datasets of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from thumbs.clients.types import Datum
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.configs import config_class
from thumbs.recipe.renderers import Message, Renderer, TrainOnWhat
from thumbs.recipe.supervised.datums import Reduction, datum_from_model_input_weights
from thumbs.recipe.supervised.types import ChatDatasetBuilder, SupervisedDataset


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
        if (map_fn is None) == (flatmap_fn is None):
            raise ConfigError("give map_fn or flatmap_fn, and not both")
        if not 1 <= batch_size <= len(hf_dataset):
            raise ConfigError(f"batch_size={batch_size} with {len(hf_dataset)} rows; it must be from 1 to that number")
        self._rows, self._batch_size = hf_dataset, batch_size
        self._to_data = flatmap_fn or (lambda row: [map_fn(row)])  # type: ignore[misc]
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
        test, train = ([rows[i] for i in part] for part in np.split(order, [min(self.test_size, len(rows))]))
        renderer, config = self.renderer, self.common_config

        def to_datum(row: dict[str, Any]) -> Datum:
            return conversation_to_datum(row["messages"], renderer, config.max_length, self.train_on_what)

        train_set = SupervisedDatasetFromHFDataset(train, config.batch_size, to_datum)
        return train_set, SupervisedDatasetFromHFDataset(test, len(test), to_datum) if test else None


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
