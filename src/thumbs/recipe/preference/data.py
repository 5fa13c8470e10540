"""Datasets of labelled comparisons, for judges and for DPO."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from thumbs.clients.types import Datum
from thumbs.errors import DataError
from thumbs.recipe.configs import config_class
from thumbs.recipe.preference.types import Comparison, ComparisonRendererFromChatRenderer, LabeledComparison
from thumbs.recipe.renderers import TrainOnWhat
from thumbs.recipe.supervised.data import SupervisedDatasetFromHFDataset, conversation_to_datum, read_jsonl
from thumbs.recipe.supervised.datums import datum_from_model_input_weights
from thumbs.recipe.supervised.types import ChatDatasetBuilder, SupervisedDataset

log = logging.getLogger(__name__)


@config_class
class ComparisonDatasetBuilder(ABC):
    """Base of sources of comparisons; swap: each comparison comes with its completions exchanged as well."""

    swap: bool = False

    @abstractmethod
    def get_train_and_test_datasets(self) -> tuple[Any, Any | None]:
        """Sequences of rows to train on and, if there are any, to test on."""

    @abstractmethod
    def example_to_labeled_comparison(self, example: dict[str, Any]) -> LabeledComparison | None:
        """The comparison in a row; None where it has none that can be used."""

    def get_labeled_comparisons(self) -> tuple[list[LabeledComparison], list[LabeledComparison] | None]:
        """The comparisons to train on and to test on; ties are among them."""
        train, test = self.get_train_and_test_datasets()
        return self._all(train), None if test is None else self._all(test)

    def _all(self, rows: Any) -> list[LabeledComparison]:
        found = [one for row in rows if (one := self.example_to_labeled_comparison(row)) is not None]
        return [*found, *(one.swap() for one in found)] if self.swap else found


@config_class
class ComparisonBuilderFromJsonl(ComparisonDatasetBuilder):
    """Comparisons in JSONL files.

    A line is {"comparison": {"prompt_conversation", "completion_A", "completion_B"}, "label": "A", "B" or "Tie"}; other
    keys are left alone.
    """

    train_path: str
    test_path: str | None = None

    def get_train_and_test_datasets(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
        """The lines of both files; DataError names a broken one."""
        train = read_jsonl(self.train_path, "comparison")
        return train, read_jsonl(self.test_path, "comparison") if self.test_path else None

    def example_to_labeled_comparison(self, example: dict[str, Any]) -> LabeledComparison:
        """The comparison of a line; raises DataError where a key is missing."""
        try:
            parts = example["comparison"]
            comparison = Comparison(parts["prompt_conversation"], parts["completion_A"], parts["completion_B"])
            return LabeledComparison(comparison, example["label"])
        except (KeyError, TypeError) as error:
            raise DataError(
                f"a comparison lacks {error}; it needs 'comparison' with 'prompt_conversation', 'completion_A' and "
                "'completion_B', and 'label'"
            ) from None


@config_class
class ChatDatasetBuilderFromComparisons(ChatDatasetBuilder):
    """Datums that teach a judge to answer with the label; ties and comparisons that are too long are left out."""

    comparison_builder: ComparisonDatasetBuilder
    swap: bool = False

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, if there are test comparisons, to test on."""
        renderer, longest = ComparisonRendererFromChatRenderer(self.renderer), self.common_config.max_length

        def to_data(labeled: LabeledComparison) -> list[Datum]:
            both = [labeled, labeled.swap()] if self.swap else [labeled]
            examples = [renderer.to_model_input_weights(one) for one in both]
            if longest is not None and examples[0][0].length > longest:
                # The label is the last token, so a cut would leave nothing to learn.
                log.warning("left out a comparison of %d tokens; max_length is %d", examples[0][0].length, longest)
                return []
            return [datum_from_model_input_weights(*example) for example in examples]

        return _datasets(self.comparison_builder, self.common_config.batch_size, to_data)


@config_class
class DPODatasetBuilderFromComparisons(ChatDatasetBuilder):
    """Pairs of datums for DPO, the preferred completion first; ties are left out."""

    comparison_builder: ComparisonDatasetBuilder

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, if there are test comparisons, to test on."""
        renderer, config = self.renderer, self.common_config
        what = config.train_on_what or TrainOnWhat.LAST_ASSISTANT_MESSAGE

        def to_data(labeled: LabeledComparison) -> list[Datum]:
            better = labeled.comparison if labeled.label == "A" else labeled.comparison.swap()
            conversations = (
                [*better.prompt_conversation, *completion] for completion in (better.completion_A, better.completion_B)
            )
            return [conversation_to_datum(one, renderer, config.max_length, what, "none") for one in conversations]

        return _datasets(self.comparison_builder, config.batch_size, to_data)


def _datasets(
    builder: ComparisonDatasetBuilder, batch_size: int, to_data: Callable[[LabeledComparison], list[Datum]]
) -> tuple[SupervisedDataset, SupervisedDataset | None]:
    train, test = builder.get_labeled_comparisons()
    decided, decided_test = _decided(train), _decided(test or [])
    train_set = SupervisedDatasetFromHFDataset(decided, batch_size, flatmap_fn=to_data)
    if not decided_test:
        return train_set, None
    return train_set, SupervisedDatasetFromHFDataset(decided_test, len(decided_test), flatmap_fn=to_data)


def _decided(comparisons: list[LabeledComparison]) -> list[LabeledComparison]:
    decided = [one for one in comparisons if one.label != "Tie"]
    if len(decided) < len(comparisons):
        log.info("left out %d ties of %d comparisons", len(comparisons) - len(decided), len(comparisons))
    return decided
