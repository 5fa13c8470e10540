"""Environments of messages, and the adapter that lets a policy of tokens act in them."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError
from thumbs.recipe.renderers import Message, Renderer, StopCondition, get_text_content
from thumbs.recipe.rl.rollout_limits import ParseErrorPolicy, RolloutLimits
from thumbs.recipe.rl.types import (
    PARSE_ERROR_MASKED_METRIC_KEY,
    STOP_METRIC_PREFIX,
    Action,
    ActionExtra,
    Env,
    InitialObservationOverflow,
    Logs,
    Metrics,
    StepResult,
    StopReason,
)

log = logging.getLogger(__name__)


@dataclass
class MessageStepResult:
    """What a message environment answers; `next_messages` is the whole conversation so far."""

    reward: float
    episode_done: bool
    next_messages: list[Message]
    metrics: Metrics = field(default_factory=dict)
    logs: Logs = field(default_factory=dict)
    next_stop_condition: StopCondition | None = None


class MessageEnv(ABC):
    """An environment for one episode of messages."""

    @abstractmethod
    async def initial_observation(self) -> list[Message]:
        """The conversation that the policy goes on from."""

    @abstractmethod
    async def step(self, message: Message) -> MessageStepResult:
        """What follows from the policy's message."""

    async def observe_truncated_response(self, message: Message) -> list[Message] | None:
        """Take a reply that hit the length limit into the conversation, and return that; None: the episode ends."""
        del message
        return None

    async def add_messages(self, messages: list[Message]) -> list[Message] | None:
        """Take messages into the conversation, and return that; None where this is not supported."""
        del messages
        return None


class EnvFromMessageEnv(Env):
    """A token environment around a MessageEnv: renders, reads replies, and bounds lengths.

    A reply that hits the length limit ends the episode with `context_overflow_reward`; one that does not end as the
    format asks gets `failed_parse_reward`, and ends the episode if terminate_on_parse_error.
    Either reward may be None: then the text goes to `MessageEnv.step` as it stands, with the metric `truncated` or
    `parse_error` set to 1. That is the better choice where a learned model gives the reward: a constant may lie above
    what the model gives to bad answers, and then it pays to ramble.
    max_trajectory_tokens: longest conversation, with max_generation_tokens for the next reply.
    terminate_on_length=False: a reply that hits the length limit goes to `MessageEnv.observe_truncated_response`.
    parse_error_policy: in place of failed_parse_reward. rollout_limits: budgets of an episode.
    """

    def __init__(
        self,
        renderer: Renderer,
        message_env: MessageEnv,
        failed_parse_reward: float | None = -1.0,
        terminate_on_parse_error: bool = True,
        max_trajectory_tokens: int | None = None,
        max_generation_tokens: int | None = None,
        context_overflow_reward: float | None = -0.1,
        terminate_on_length: bool = True,
        parse_error_policy: ParseErrorPolicy | None = None,
        rollout_limits: RolloutLimits | None = None,
    ) -> None:
        self.renderer = renderer
        self.message_env = message_env
        self.failed_parse_reward = failed_parse_reward
        self.terminate_on_parse_error = terminate_on_parse_error
        self.max_trajectory_tokens = max_trajectory_tokens
        self.max_generation_tokens = max_generation_tokens
        self.context_overflow_reward = context_overflow_reward
        self.terminate_on_length = terminate_on_length
        self.parse_error_policy = parse_error_policy
        self.rollout_limits = rollout_limits
        self._messages: list[Message] = []
        self._errors_in_a_row = 0

    def set_parse_error_policy(self, policy: ParseErrorPolicy) -> None:
        """Use this policy from now on."""
        self.parse_error_policy = policy

    def set_max_tool_calls(self, max_tool_calls: int) -> None:
        """Hand the budget to the message environment; raises ConfigError where that has no set_max_tool_calls."""
        if not hasattr(self.message_env, "set_max_tool_calls"):
            raise ConfigError(
                f"max_tool_calls={max_tool_calls}, and {type(self.message_env).__name__} has no set_max_tool_calls(); "
                "give it one, as it alone knows of tools"
            )
        self.message_env.set_max_tool_calls(max_tool_calls)  # type: ignore[attr-defined]

    async def initial_observation(self) -> tuple[ModelInput, StopCondition] | InitialObservationOverflow:
        """The rendered first messages; the episode is over where they leave no room for a reply."""
        self._messages = await self.message_env.initial_observation()
        prompt = await self._prompt(self._messages)
        if self._fits(prompt):
            return prompt, self.renderer.get_stop_sequences()
        log.warning(
            "the first messages are %d tokens long; with max_generation_tokens=%s that is over "
            "max_trajectory_tokens=%s, so the episode ends before it begins",
            prompt.length,
            self.max_generation_tokens,
            self.max_trajectory_tokens,
        )
        return InitialObservationOverflow(
            self.context_overflow_reward or 0.0, {"max_tokens_reached": 1.0, _stop(StopReason.MAX_TOKENS): 1.0}
        )

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """What follows from the message in the tokens."""
        message, ending = self.renderer.parse_response(action)
        metrics: Metrics = {}
        truncated = (extra or {}).get("stop_reason") == "length"
        refused = None
        if truncated:
            refused = await self._truncated(message, metrics)
        elif not ending.is_clean:
            refused = await self._unreadable(message, f"the reply ended as {ending.value}", metrics)
        elif message.get("unparsed_tool_calls"):
            refused = await self._unreadable_calls(message, metrics)
        else:
            self._errors_in_a_row = 0
        return refused or await self._stepped(message, truncated, metrics)

    async def _truncated(self, message: Message, metrics: Metrics) -> StepResult | None:
        """For a reply that hit the length limit; None where the message environment is to score it."""
        if not self.terminate_on_length:
            messages = await self.message_env.observe_truncated_response(message)
            if messages is not None:
                return await self._next(messages, 0.0, metrics, _said(message))
        metrics |= {"truncated": 1.0, "max_tokens_reached": 1.0, _stop(StopReason.MAX_TOKENS): 1.0}
        if self.context_overflow_reward is None:
            return None
        return self._over(self.context_overflow_reward, metrics, _said(message))

    async def _unreadable(self, message: Message, why: str, metrics: Metrics) -> StepResult | None:
        """For a reply without its end; None where the message environment is to score it."""
        metrics["parse_error"] = 1.0
        policy, logs = self.parse_error_policy, _said(message) | {"parse_error": why}
        if policy is not None:
            metrics |= _masked(policy) | {_stop(StopReason.PARSE_ERROR): 1.0}
            return self._over(policy.terminal_reward, metrics, logs)
        if self.failed_parse_reward is None:
            return None
        if self.terminate_on_parse_error:
            metrics[_stop(StopReason.PARSE_ERROR)] = 1.0
            return self._over(self.failed_parse_reward, metrics, logs)
        return await self._next(self._messages, self.failed_parse_reward, metrics, logs)  # the same turn again

    async def _unreadable_calls(self, message: Message, metrics: Metrics) -> StepResult | None:
        """For tool calls that cannot be read; None without a policy, as the message environment sees them too."""
        policy = self.parse_error_policy
        if policy is None:
            return None
        why = "\n".join(call.error for call in message.get("unparsed_tool_calls", ()))
        self._errors_in_a_row += 1
        if self._errors_in_a_row > policy.max_consecutive:
            return await self._unreadable(message, why, metrics)
        advice: Message = {"role": "user", "content": policy.retry_message_template.replace("{details}", why)}
        messages = await self.message_env.add_messages([message, advice])
        if messages is None:
            return await self._unreadable(message, why, metrics)
        metrics |= _masked(policy) | {"parse_error": 1.0}
        return await self._next(messages, -policy.penalty_per_error, metrics, _said(message) | {"parse_error": why})

    async def _stepped(self, message: Message, last: bool, metrics: Metrics) -> StepResult:
        """What the message environment answers."""
        result = await self.message_env.step(message)
        metrics, logs = metrics | result.metrics, _said(message) | result.logs
        if result.episode_done or last:
            return self._over(result.reward, metrics, logs)
        return await self._next(result.next_messages, result.reward, metrics, logs, result.next_stop_condition)

    async def _next(
        self, messages: list[Message], reward: float, metrics: Metrics, logs: Logs, stop: StopCondition | None = None
    ) -> StepResult:
        """Another turn; the end of the episode, with the reward of this turn too, where there is no room for one."""
        self._messages = messages
        prompt = await self._prompt(messages)
        if self._fits(prompt):
            return StepResult(reward, False, prompt, stop or self.renderer.get_stop_sequences(), metrics, logs)
        metrics |= {"context_overflow": 1.0, _stop(StopReason.CONTEXT_OVERFLOW): 1.0}
        return self._over(reward + (self.context_overflow_reward or 0.0), metrics, logs)

    def _over(self, reward: float, metrics: Metrics, logs: Logs) -> StepResult:
        """The end of the episode."""
        return StepResult(reward, True, ModelInput.empty(), self.renderer.get_stop_sequences(), metrics, logs)

    async def _prompt(self, messages: Sequence[Message]) -> ModelInput:
        """Rendered in a thread, as long conversations would hold up all other episodes."""
        return await asyncio.to_thread(self.renderer.build_generation_prompt, messages)

    def _fits(self, prompt: ModelInput) -> bool:
        return (
            self.max_trajectory_tokens is None
            or prompt.length + (self.max_generation_tokens or 0) <= self.max_trajectory_tokens
        )


def _stop(reason: StopReason) -> str:
    return STOP_METRIC_PREFIX + reason


def _masked(policy: ParseErrorPolicy) -> Metrics:
    return {PARSE_ERROR_MASKED_METRIC_KEY: 1.0} if policy.mask_error_turns else {}


def _said(message: Message) -> Logs:
    return {"reply": get_text_content(message)}
