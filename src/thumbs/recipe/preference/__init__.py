"""Learning from preferences: comparisons, judges, DPO."""

from thumbs.recipe.preference import comparison_policy_evaluator, data, train_dpo, types
from thumbs.recipe.preference.data import ComparisonDatasetBuilder
from thumbs.recipe.preference.types import Comparison, LabeledComparison

__all__ = [
    "Comparison",
    "ComparisonDatasetBuilder",
    "LabeledComparison",
    "comparison_policy_evaluator",
    "data",
    "train_dpo",
    "types",
]
