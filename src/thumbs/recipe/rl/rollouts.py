"""From environments and a policy to trajectories."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thumbs.errors import DataError
from thumbs.recipe.completers import TokenCompleter
from thumbs.recipe.rl.types import ActionExtra, Env, EnvGroupBuilder, Trajectory, TrajectoryGroup, Transition

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailFast:
    """An exception in a rollout ends the run; it can be continued from its last checkpoint."""

    max_retries: int = 0


@dataclass(frozen=True)
class RetryOnFailure:
    """A rollout that raises is done again in a new environment, so many times; then the exception ends the run."""

    max_retries: int = 3


RolloutStrategy = FailFast | RetryOnFailure


async def do_single_rollout(policy: TokenCompleter, env: Env) -> Trajectory:
    """One episode."""
    # Environments written for earlier versions take the tokens alone.
    takes_extra = "extra" in inspect.signature(env.step).parameters
    transitions: list[Transition] = []
    observation, stop = await env.initial_observation()
    while True:
        action = await policy(observation, stop)
        extra: ActionExtra = {"stop_reason": action.stop_reason}
        result = await (env.step(action.tokens, extra=extra) if takes_extra else env.step(action.tokens))
        transitions.append(
            Transition(observation, action, result.reward, result.episode_done, result.metrics, result.logs)
        )
        observation, stop = result.next_observation, result.next_stop_condition
        if result.episode_done:
            return Trajectory(transitions, observation, action.stop_reason)


async def do_group_rollout(
    builder: EnvGroupBuilder, policy: TokenCompleter, strategy: RolloutStrategy | None = None
) -> TrajectoryGroup:
    """The episodes of a group, all at once, and the rewards of the group."""
    errors: list[str] = []
    try:
        envs = list(await builder.make_envs())
        if not envs:
            raise DataError(f"{type(builder).__name__}.make_envs() returned no environment; a group needs at least one")
        retries = (strategy or FailFast()).max_retries
        done = await asyncio.gather(
            *(_episode(builder, envs, place, policy, retries, errors) for place in range(len(envs)))
        )
        trajectories = list(done)
        rewards = await _group_rewards(builder, trajectories, envs)
    finally:
        await builder.cleanup()
    if len(rewards) != len(trajectories):
        raise DataError(
            f"{type(builder).__name__}.compute_group_rewards returned {len(rewards)} rewards for {len(trajectories)} "
            "trajectories; return one (reward, metrics) for each"
        )
    return TrajectoryGroup(trajectories, [reward for reward, _ in rewards], [metrics for _, metrics in rewards], errors)


async def _episode(
    builder: EnvGroupBuilder, envs: list[Env], place: int, policy: TokenCompleter, retries: int, errors: list[str]
) -> Trajectory:
    while True:
        try:
            return await do_single_rollout(policy, envs[place])
        except Exception as error:
            errors.append(type(error).__name__)
            if retries == 0:
                raise
            retries -= 1
            log.warning("a rollout failed and is done again: %r", error)
            envs[place] = (await builder.make_envs())[place]


async def _group_rewards(
    builder: EnvGroupBuilder, trajectories: list[Trajectory], envs: list[Env]
) -> list[tuple[float, dict[str, float]]]:
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
            yield {"group": number, "reward": reward, "stop_reason": trajectory.stop_reason, "turns": turns}
