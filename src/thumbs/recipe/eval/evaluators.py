"""Evaluators: callables that measure the weights of a training or a sampling client."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from thumbs.errors import ConfigError
from thumbs.recipe.futures import call


class TrainingClientEvaluator(ABC):
    """Measures through a training client."""

    @abstractmethod
    async def __call__(self, training_client: Any) -> dict[str, float]:
        """Metrics by name."""


class SamplingClientEvaluator(ABC):
    """Measures through a sampling client."""

    @abstractmethod
    async def __call__(self, sampling_client: Any) -> dict[str, float]:
        """Metrics by name."""


Evaluator = TrainingClientEvaluator | SamplingClientEvaluator
EvaluatorBuilder = Callable[[], Evaluator]
SamplingClientEvaluatorBuilder = Callable[[], SamplingClientEvaluator]


async def evaluate(evaluators: Sequence[Evaluator], training_client: Any) -> dict[str, float]:
    """Metrics of all of them at the client's present weights; those that sample share one snapshot."""
    metrics: dict[str, float] = {}
    sampler = None
    for evaluator in evaluators:
        if isinstance(evaluator, TrainingClientEvaluator):
            metrics.update(await evaluator(training_client))
        elif isinstance(evaluator, SamplingClientEvaluator):
            sampler = sampler or await call(training_client.save_weights_and_get_sampling_client)
            metrics.update(await evaluator(sampler))
        else:
            raise ConfigError(
                f"an evaluator builder made a {type(evaluator).__name__}; it must be a TrainingClientEvaluator or a "
                "SamplingClientEvaluator"
            )
    return metrics


def is_due(step: int, every: int) -> bool:
    """Whether something that runs every so many steps runs before this one; never where `every` is 0."""
    return every > 0 and step % every == 0
