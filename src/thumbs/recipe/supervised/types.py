"""What supervised training reads: datasets of datum batches, and the configs that build them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from thumbs.clients.types import Datum
from thumbs.recipe.configs import config_class
from thumbs.recipe.renderers import Renderer, TrainOnWhat, get_renderer
from thumbs.recipe.tokenizers import get_tokenizer


class SupervisedDataset(ABC):
    """Batches of datums by index."""

    @abstractmethod
    def get_batch(self, index: int) -> list[Datum]:
        """The datums of a batch; the same index gives the same batch until the next set_epoch."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of batches in an epoch."""

    def set_epoch(self, seed: int = 0) -> None:
        """Called with the number of an epoch before its first batch; the place to shuffle."""
        del seed


class SupervisedDatasetBuilder(ABC):
    """A callable config that builds the dataset. Subclass it as a chz class, a dataclass, or a class of your own."""

    @abstractmethod
    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, if there is one, to test on."""


@config_class
class ChatDatasetBuilderCommonConfig:
    """How conversations become batches of datums.

    max_length: tokens of a datum, longer ones are cut; None is no limit. batch_size: conversations of a batch.
    """

    model_name_for_tokenizer: str
    renderer_name: str
    max_length: int | None
    batch_size: int
    train_on_what: TrainOnWhat | None = None


@config_class
class ChatDatasetBuilder(SupervisedDatasetBuilder):
    """Base of builders that render conversations."""

    common_config: ChatDatasetBuilderCommonConfig

    def __call__(self) -> tuple[SupervisedDataset, SupervisedDataset | None]:
        """Datasets to train on and, if there is one, to test on."""
        raise NotImplementedError(
            f"{type(self).__name__} has no __call__; return (train dataset, test dataset or None)"
        )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the model."""
        return get_tokenizer(self.common_config.model_name_for_tokenizer)

    @property
    def renderer(self) -> Renderer:
        """The renderer by its name."""
        return get_renderer(self.common_config.renderer_name, self.tokenizer)

    @property
    def train_on_what(self) -> TrainOnWhat:
        """The configured choice; all assistant messages where there is none."""
        return self.common_config.train_on_what or TrainOnWhat.ALL_ASSISTANT_MESSAGES
