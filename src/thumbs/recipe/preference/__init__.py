"""Learning from preferences: comparisons, judges, DPO."""

from thumbs.recipe.preference import data, train_dpo, types

__all__ = ["data", "train_dpo", "types"]
