"""From groups of environments and a policy to groups of trajectories."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from thumbs.errors import DataError
from thumbs.recipe.completers import TokenCompleter
from thumbs.recipe.rl.rollout_limits import TerminationRewardPolicy
from thumbs.recipe.rl.rollout_runner import do_single_rollout
from thumbs.recipe.rl.rollout_strategy import FailFast, RolloutStrategy
from thumbs.recipe.rl.types import Env, EnvGroupBuilder, Metrics, Trajectory, TrajectoryGroup

__all__ = ["do_group_rollout", "do_single_rollout", "episodes"]


async def do_group_rollout(
    env_group_builder: EnvGroupBuilder,
    policy: TokenCompleter,
    strategy: RolloutStrategy | None = None,
    termination: TerminationRewardPolicy | None = None,
) -> TrajectoryGroup:
    """The episodes of a group, all at once, and the rewards of the group. The strategy is FailFast where it is None."""
    termination = termination or TerminationRewardPolicy()
    try:
        result = await (strategy or FailFast()).execute(env_group_builder, policy)
        trajectories = result.trajectories
        if termination.skips_grading(trajectories):
            graded: list[tuple[float, Metrics]] = [(0.0, {}) for _ in trajectories]
        else:
            async with asyncio.timeout(termination.grader_timeout_seconds):
                graded = await _group_rewards(env_group_builder, trajectories, result.envs)
    finally:
        await env_group_builder.cleanup()
    if len(graded) != len(trajectories):
        raise DataError(
            f"{type(env_group_builder).__name__}.compute_group_rewards returned {len(graded)} rewards for "
            f"{len(trajectories)} trajectories; return one (reward, metrics) for each"
        )
    rewards = [termination.final_reward(one, reward) for one, (reward, _) in zip(trajectories, graded, strict=True)]
    return TrajectoryGroup(trajectories, rewards, [metrics for _, metrics in graded], result.errors)


async def _group_rewards(
    builder: EnvGroupBuilder, trajectories: list[Trajectory], envs: Sequence[Env]
) -> list[tuple[float, Metrics]]:
    # Builders written for earlier versions take the trajectories alone.
    if len(inspect.signature(builder.compute_group_rewards).parameters) == 1:
        return await builder.compute_group_rewards(trajectories)  # type: ignore[call-arg]
    return await builder.compute_group_rewards(trajectories, envs)


def episodes(groups: Sequence[TrajectoryGroup]) -> Iterator[dict[str, Any]]:
    """What a person wants to read of each episode, as JSON objects."""
    for number, group in enumerate(groups):
        for trajectory, reward in zip(group.trajectories_G, group.get_total_rewards(), strict=True):
            turns = [
                {
                    "prompt_tokens": transition.ob.length,
                    "reply_tokens": len(transition.ac.tokens),
                    "reward": transition.reward,
                    "metrics": transition.metrics,
                    "logs": transition.logs,
                }
                for transition in trajectory.transitions
            ]
            ended = trajectory.stop_reason or trajectory.transitions[-1].ac.stop_reason
            yield {"group": number, "reward": reward, "stop_reason": ended, "turns": turns}
