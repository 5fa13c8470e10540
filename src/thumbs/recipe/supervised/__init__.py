"""Supervised fine-tuning."""

from thumbs.recipe.supervised import data, datums, epochs, train, types
from thumbs.recipe.supervised.data import (
    FromConversationFileBuilder,
    InterleavedChatDatasetBuilder,
    ListSFTDatasetBuilder,
    StreamingSupervisedDatasetFromHFDataset,
    SupervisedDatasetFromHFDataset,
    conversation_to_datum,
)
from thumbs.recipe.supervised.datums import compute_bpb, compute_mean_nll, datum_from_model_input_weights
from thumbs.recipe.supervised.types import (
    ChatDatasetBuilder,
    ChatDatasetBuilderCommonConfig,
    SupervisedDataset,
    SupervisedDatasetBuilder,
)

__all__ = [
    "ChatDatasetBuilder",
    "ChatDatasetBuilderCommonConfig",
    "FromConversationFileBuilder",
    "InterleavedChatDatasetBuilder",
    "ListSFTDatasetBuilder",
    "StreamingSupervisedDatasetFromHFDataset",
    "SupervisedDataset",
    "SupervisedDatasetBuilder",
    "SupervisedDatasetFromHFDataset",
    "compute_bpb",
    "compute_mean_nll",
    "conversation_to_datum",
    "data",
    "datum_from_model_input_weights",
    "datums",
    "epochs",
    "train",
    "types",
]
