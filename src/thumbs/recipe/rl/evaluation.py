"""Measuring a policy on groups that it is not trained on."""

from __future__ import annotations

import asyncio
from typing import Any

from thumbs.recipe.completers import TinkerTokenCompleter
from thumbs.recipe.eval.evaluators import SamplingClientEvaluator
from thumbs.recipe.rl.metrics import compute_trajectory_metrics
from thumbs.recipe.rl.rollout_limits import TerminationRewardPolicy
from thumbs.recipe.rl.rollout_strategy import RolloutStrategy
from thumbs.recipe.rl.rollouts import do_group_rollout
from thumbs.recipe.rl.types import RLDataset

__all__ = ["RLTestSetEvaluator", "compute_trajectory_metrics"]


class RLTestSetEvaluator(SamplingClientEvaluator):
    """Rolls out all groups of a dataset at temperature 1; the metrics of training, as `{name}/env/…`.

    A group that fails ends the evaluation, whatever the strategy: a mean over the groups that went well would mislead.
    """

    def __init__(
        self,
        dataset: RLDataset,
        max_tokens: int,
        name: str = "test",
        *,
        strategy: RolloutStrategy | None = None,
        termination: TerminationRewardPolicy | None = None,
    ) -> None:
        self._builders = [builder for index in range(len(dataset)) for builder in dataset.get_batch(index)]
        self._max_tokens, self._name = max_tokens, name
        self._strategy, self._termination = strategy, termination

    async def __call__(self, sampling_client: Any) -> dict[str, float]:
        """Metrics by name."""
        policy = TinkerTokenCompleter(sampling_client, self._max_tokens)
        groups = await asyncio.gather(
            *(do_group_rollout(builder, policy, self._strategy, self._termination) for builder in self._builders)
        )
        metrics = compute_trajectory_metrics(groups, [builder.logging_tags() for builder in self._builders])
        return {f"{self._name}/{name}": value for name, value in metrics.items()}
