"""Supervised fine-tuning."""

from thumbs.recipe.supervised import data, datums, epochs, train, types
from thumbs.recipe.supervised.data import conversation_to_datum
from thumbs.recipe.supervised.datums import datum_from_model_input_weights

__all__ = ["conversation_to_datum", "data", "datum_from_model_input_weights", "datums", "epochs", "train", "types"]
