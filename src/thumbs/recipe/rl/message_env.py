"""Environments of messages, and the adapter that lets a policy of tokens act in them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from thumbs.clients.types import ModelInput
from thumbs.errors import DataError
from thumbs.recipe.renderers import Message, Renderer, StopCondition, get_text_content
from thumbs.recipe.rl.types import Action, ActionExtra, Env, Logs, Metrics, StepResult


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


class EnvFromMessageEnv(Env):
    """A token environment around a MessageEnv: renders, reads replies, and bounds lengths.

    A reply that hits the length limit ends the episode with `context_overflow_reward`; one that does not end as the
    format asks gets `failed_parse_reward`, and ends the episode if terminate_on_parse_error.
    Either reward may be None: then the text goes to `MessageEnv.step` as it stands, with the metric `truncated` or
    `parse_error` set to 1. That is the better choice where a learned model gives the reward: a constant may lie above
    what the model gives to bad answers, and then it pays to ramble.
    max_trajectory_tokens: longest conversation, with max_generation_tokens for the next reply.
    terminate_on_length=False: a reply that hits the length limit is treated as one that did not end as it should.
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
    ) -> None:
        self.renderer = renderer
        self.message_env = message_env
        self.failed_parse_reward = failed_parse_reward
        self.terminate_on_parse_error = terminate_on_parse_error
        self.max_trajectory_tokens = max_trajectory_tokens
        self.max_generation_tokens = max_generation_tokens
        self.context_overflow_reward = context_overflow_reward
        self.terminate_on_length = terminate_on_length
        self._messages: list[Message] = []

    async def initial_observation(self) -> tuple[ModelInput, StopCondition]:
        """The rendered first messages; raises DataError where they leave no room for a reply."""
        self._messages = await self.message_env.initial_observation()
        prompt = await self._prompt(self._messages)
        if not self._fits(prompt):
            raise DataError(
                f"the first messages are {prompt.length} tokens long; with max_generation_tokens="
                f"{self.max_generation_tokens} that is over max_trajectory_tokens={self.max_trajectory_tokens}"
            )
        return prompt, self.renderer.get_stop_sequences()

    async def step(self, action: Action, *, extra: ActionExtra | None = None) -> StepResult:
        """What follows from the message in the tokens."""
        message, ending = self.renderer.parse_response(action)
        metrics: Metrics = {}
        truncated = (extra or {}).get("stop_reason") == "length" and self.terminate_on_length
        if truncated:
            metrics["truncated"] = 1.0
            if self.context_overflow_reward is not None:
                return self._over(self.context_overflow_reward, metrics, message)
        elif not ending.is_clean:
            metrics["parse_error"] = 1.0
            if self.failed_parse_reward is not None:
                if self.terminate_on_parse_error:
                    return self._over(self.failed_parse_reward, metrics, message)
                return await self._again(self.failed_parse_reward, metrics, message)
        result = await self.message_env.step(message)
        metrics |= result.metrics
        logs = {"reply": get_text_content(message), **result.logs}
        if result.episode_done or truncated:
            return self._over(result.reward, metrics, message, logs)
        self._messages = result.next_messages
        prompt = await self._prompt(self._messages)
        if not self._fits(prompt):
            overflow = 0.0 if self.context_overflow_reward is None else self.context_overflow_reward
            return self._over(result.reward + overflow, metrics | {"context_overflow": 1.0}, message, logs)
        stop = result.next_stop_condition or self.renderer.get_stop_sequences()
        return StepResult(result.reward, False, prompt, stop, metrics, logs)

    def _over(self, reward: float, metrics: Metrics, message: Message, logs: Logs | None = None) -> StepResult:
        """The end of the episode."""
        logs = {"reply": get_text_content(message)} if logs is None else logs
        return StepResult(reward, True, ModelInput.empty(), self.renderer.get_stop_sequences(), metrics, logs)

    async def _again(self, reward: float, metrics: Metrics, message: Message) -> StepResult:
        """Another attempt at the same turn."""
        prompt = await self._prompt(self._messages)
        logs: Logs = {"reply": get_text_content(message)}
        return StepResult(reward, False, prompt, self.renderer.get_stop_sequences(), metrics, logs)

    async def _prompt(self, messages: Sequence[Message]) -> ModelInput:
        """Rendered in a thread, as long conversations would hold up all other episodes."""
        return await asyncio.to_thread(self.renderer.build_generation_prompt, messages)

    def _fits(self, prompt: ModelInput) -> bool:
        return (
            self.max_trajectory_tokens is None
            or prompt.length + (self.max_generation_tokens or 0) <= self.max_trajectory_tokens
        )
