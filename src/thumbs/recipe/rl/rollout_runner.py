"""One episode: a policy in an environment, within budgets."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass, field
from typing import Any

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError
from thumbs.recipe.completers import TokenCompleter, TokensWithLogprobs
from thumbs.recipe.rl.rollout_limits import ParseErrorPolicy, RolloutLimits
from thumbs.recipe.rl.types import (
    STOP_METRIC_PREFIX,
    ActionExtra,
    Env,
    InitialObservationOverflow,
    Metrics,
    StopReason,
    Trajectory,
    Transition,
)


async def do_single_rollout(policy: TokenCompleter, env: Env) -> Trajectory:
    """One episode, within the `rollout_limits` of its environment if that has any."""
    return await run_rollout(policy, env)


async def run_rollout(
    policy: TokenCompleter,
    env: Env,
    *,
    limits: RolloutLimits | None = None,
    parse_errors: ParseErrorPolicy | None = None,
) -> Trajectory:
    """One episode.

    limits: None is the environment's own. parse_errors: handed to the environment; ConfigError where it takes none.
    """
    own: RolloutLimits | None = getattr(env, "rollout_limits", None)
    limits = limits or own or RolloutLimits()
    if limits.max_tool_calls is not None:
        _method(env, "set_max_tool_calls")(limits.max_tool_calls)
    if parse_errors is not None:
        _method(env, "set_parse_error_policy")(parse_errors)
    return await _Episode(policy, env, limits).run()


def _method(env: Env, name: str) -> Any:
    if not hasattr(env, name):
        raise ConfigError(f"{type(env).__name__} has no {name}(), so what was asked of it cannot be done; give it one")
    return getattr(env, name)


@dataclass
class _Episode:
    """An episode under way."""

    policy: TokenCompleter
    env: Env
    limits: RolloutLimits
    transitions: list[Transition] = field(default_factory=list)
    observation: Any = field(default_factory=ModelInput.empty)
    sampled_tokens: int = 0

    async def run(self) -> Trajectory:
        """The episode; a budget that is used up ends it."""
        reason: str | None = None
        budget = asyncio.timeout(self.limits.rollout_timeout_seconds)
        try:
            async with budget:
                reason = await self._turns()
        except TimeoutError:
            if not budget.expired():
                raise  # another one's, such as that of a single reply
            reason = self._stopped(StopReason.ROLLOUT_TIMEOUT)
        return Trajectory(self.transitions, self.observation, reason)

    async def _turns(self) -> str | None:
        first = await self.env.initial_observation()
        if isinstance(first, InitialObservationOverflow):
            nothing = TokensWithLogprobs([], [])
            self.transitions.append(
                Transition(ModelInput.empty(), nothing, first.reward, True, dict(first.metrics), first.logs)
            )
            return _stop_reason(self.transitions[-1].metrics)
        self.observation, stop = first
        # Environments written for earlier versions take the tokens alone.
        takes_extra = "extra" in inspect.signature(self.env.step).parameters
        while True:
            prompt_tokens = self.observation.length
            reason = self.limits.used_up(len(self.transitions), self.sampled_tokens, prompt_tokens)
            if reason is not None:
                return self._stopped(reason)
            action = await self._sampled(stop, self.limits.room(self.sampled_tokens, prompt_tokens))
            extra: ActionExtra = {"stop_reason": action.stop_reason}
            result = await (self.env.step(action.tokens, extra=extra) if takes_extra else self.env.step(action.tokens))
            self.transitions.append(
                Transition(
                    self.observation, action, result.reward, result.episode_done, dict(result.metrics), result.logs
                )
            )
            self.sampled_tokens += len(action.tokens)
            self.observation, stop = result.next_observation, result.next_stop_condition
            if result.episode_done:
                return _stop_reason(result.metrics)

    async def _sampled(self, stop: Any, room: int | None) -> TokensWithLogprobs:
        # Completers written for earlier versions take no max_tokens.
        options = {} if room is None else {"max_tokens": room}
        async with asyncio.timeout(self.limits.sampling_turn_timeout_seconds):
            return await self.policy(self.observation, stop, **options)

    def _stopped(self, reason: StopReason) -> str:
        """Ends the episode where it is."""
        if not self.transitions:
            self.transitions.append(Transition(ModelInput.empty(), TokensWithLogprobs([], []), 0.0, True))
        self.transitions[-1].episode_done = True
        self.transitions[-1].metrics[STOP_METRIC_PREFIX + reason] = 1.0
        return reason


def _stop_reason(metrics: Metrics) -> str | None:
    found = (name.removeprefix(STOP_METRIC_PREFIX) for name in metrics if name.startswith(STOP_METRIC_PREFIX))
    return next(found, None)
