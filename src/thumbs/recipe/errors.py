"""The errors that recipes raise, under the names that code written for tinker_cookbook catches."""

from thumbs.errors import CheckpointError, ConfigError, DataError, RunError, ThumbsError
from thumbs.recipe.rl.rollout_strategy import AllTrajectoriesFailedError

TinkerCookbookError = ThumbsError
ConfigurationError = RendererError = ConfigError
DataFormatError = DataValidationError = DataError
TrainingError = RunError

__all__ = [
    "AllTrajectoriesFailedError",
    "CheckpointError",
    "ConfigurationError",
    "DataError",
    "DataFormatError",
    "DataValidationError",
    "RendererError",
    "TinkerCookbookError",
    "TrainingError",
]
