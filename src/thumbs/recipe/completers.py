"""Completers: callables that go on from a prompt, in tokens or in messages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thumbs.errors import DataError
from thumbs.recipe.any_client import to_model_input, types_of
from thumbs.recipe.futures import resolved
from thumbs.recipe.renderers import Message, Renderer, StopCondition


@dataclass(frozen=True)
class TokensWithLogprobs:
    """Sampled tokens, the stop token included, with their logprobs (nats) where the sampler gave them."""

    tokens: list[int]
    maybe_logprobs: list[float] | None
    stop_reason: str = "stop"

    @property
    def logprobs(self) -> list[float]:
        """The logprobs; raises DataError where there are none."""
        if self.maybe_logprobs is None:
            raise DataError("the sampler gave no logprobs, and a policy cannot be trained without")
        return self.maybe_logprobs


class TokenCompleter(ABC):
    """Tokens after tokens: all that rollouts need of a policy."""

    @abstractmethod
    async def __call__(
        self, model_input: Any, stop: StopCondition, *, max_tokens: int | None = None
    ) -> TokensWithLogprobs:
        """One completion of a prompt."""


class MessageCompleter(ABC):
    """A message after messages."""

    @abstractmethod
    async def __call__(self, messages: Sequence[Message]) -> Message:
        """The next message of a conversation."""


@dataclass(frozen=True)
class TinkerTokenCompleter(TokenCompleter):
    """Samples through a sampling client.

    At most `max_tokens`, or what a call asks for if that is less, and no more than `context_window` with the prompt.
    """

    sampling_client: Any
    max_tokens: int
    temperature: float = 1.0
    context_window: int | None = None

    async def __call__(
        self, model_input: Any, stop: StopCondition, *, max_tokens: int | None = None
    ) -> TokensWithLogprobs:
        """One completion; raises DataError where the prompt leaves no room for a token."""
        target = types_of(self.sampling_client)
        prompt = to_model_input(model_input, target)
        room = self.max_tokens if max_tokens is None else min(max_tokens, self.max_tokens)
        if self.context_window is not None:
            room = min(room, self.context_window - prompt.length)
        if room < 1:
            raise DataError(f"a prompt of {prompt.length} tokens leaves no room in a context of {self.context_window}")
        params = target.SamplingParams(max_tokens=room, stop=stop, temperature=self.temperature)
        response = await resolved(self.sampling_client.sample(prompt, num_samples=1, sampling_params=params))
        sampled = response.sequences[0]
        logprobs = None if sampled.logprobs is None else list(sampled.logprobs)
        return TokensWithLogprobs(list(sampled.tokens), logprobs, sampled.stop_reason)


@dataclass(frozen=True)
class TinkerMessageCompleter(MessageCompleter):
    """Renders messages, samples, and reads the reply."""

    sampling_client: Any
    renderer: Renderer
    max_tokens: int
    stop_condition: StopCondition | None = None
    temperature: float = 1.0

    async def __call__(self, messages: Sequence[Message]) -> Message:
        """The reply; one that was cut short is returned as far as it goes."""
        complete = TinkerTokenCompleter(self.sampling_client, self.max_tokens, self.temperature)
        stop = self.renderer.get_stop_sequences() if self.stop_condition is None else self.stop_condition
        sampled = await complete(self.renderer.build_generation_prompt(messages), stop)
        return self.renderer.parse_response(sampled.tokens)[0]
