"""What a renderer is: messages to tokens with training weights, and sampled tokens back to a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.tokenizers import text_tokenizer

Role = str
StopCondition = list[str] | list[int]


class TextPart(TypedDict):
    """Words of a message."""

    type: str  # "text"
    text: str


class ThinkingPart(TypedDict):
    """Reasoning before an answer."""

    type: str  # "thinking"
    thinking: str


class Message(TypedDict):
    """One turn; content is text, or parts of text and thinking. `trainable` is for TrainOnWhat.CUSTOMIZED."""

    role: Role
    content: str | list[TextPart | ThinkingPart]
    trainable: NotRequired[bool]
    name: NotRequired[str]


class TrainOnWhat(StrEnum):
    """Which messages of a conversation get weight 1."""

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"


class ParseTermination(StrEnum):
    """How a reply ended. True where it ended as it should, so that `message, ok = parse_response(…)` reads well."""

    STOP_SEQUENCE = "stop_sequence"
    EOS = "eos"
    MALFORMED = "malformed"

    @property
    def is_clean(self) -> bool:
        """Ended by a stop sequence or the end-of-text token."""
        return self is not ParseTermination.MALFORMED

    @property
    def is_stop_sequence(self) -> bool:
        """Ended by a stop sequence of the renderer."""
        return self is ParseTermination.STOP_SEQUENCE

    def __bool__(self) -> bool:
        return self.is_clean


@dataclass(frozen=True)
class RenderContext:
    """Where in its conversation a message stands."""

    idx: int
    is_last: bool
    last_user_index: int = -1


@dataclass(frozen=True)
class RenderedMessage:
    """Tokens of a message: what stands before the words, the words and their end, and what only sampling adds."""

    output: list[int]
    header: list[int] = field(default_factory=list)
    stop_overlap: list[int] = field(default_factory=list)


class Renderer(ABC):
    """Writes conversations in a model's format and reads its replies. Safe to use from several threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises ModelError where the tokenizer cannot be used, ConfigError where it lacks a token of the format."""
        self.tokenizer = tokenizer
        self._text = text_tokenizer(tokenizer)

    @property
    def has_extension_property(self) -> bool:
        """Whether each prompt of a conversation begins with the prompt and the reply of the turn before."""
        return True

    @abstractmethod
    def get_stop_sequences(self) -> StopCondition:
        """What ends a reply, for SamplingParams.stop."""

    @abstractmethod
    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The message in sampled tokens, and how it ended; text that was cut short is a message as well."""

    @abstractmethod
    def build_generation_prompt(
        self, messages: Sequence[Message], role: Role = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """Tokens up to where the next reply begins, or goes on after `prefill`."""

    @abstractmethod
    def build_supervised_example(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    ) -> tuple[ModelInput, torch.Tensor]:
        """Tokens of a conversation and their weights, float32 [N]: weight 1 where the model should learn the token."""

    def build_supervised_examples(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_TURN,
    ) -> list[tuple[ModelInput, torch.Tensor]]:
        """As build_supervised_example, so that each trained reply follows just the prompt it will be sampled after.

        That takes an example for each assistant turn where the format rewrites earlier turns, else one.
        """
        if self.has_extension_property or train_on_what != TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            return [self.build_supervised_example(messages, train_on_what)]
        ends = [
            i + 1
            for i, message in enumerate(messages)
            if message["role"] == "assistant" and [m["role"] for m in messages[i + 1 : i + 2]] in ([], ["user"])
        ]
        turns = [self.build_supervised_example(messages[:end], TrainOnWhat.LAST_ASSISTANT_TURN) for end in ends]
        return turns or [self.build_supervised_example(messages, train_on_what)]

    def _ends_at(self, response: Sequence[int], ends: dict[int, ParseTermination]) -> tuple[str, ParseTermination]:
        """The text before the first of these tokens, and which kind of end that is."""
        for place, token in enumerate(response):
            if token in ends:
                return self._text.decode(response[:place]), ends[token]
        return self._text.decode(response), ParseTermination.MALFORMED


class TurnRenderer(Renderer):
    """A renderer of a format that writes one message after the other."""

    _bos: Sequence[int] = ()

    @abstractmethod
    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Tokens of one message."""

    def build_generation_prompt(
        self, messages: Sequence[Message], role: Role = "assistant", prefill: str | None = None
    ) -> ModelInput:
        """Tokens up to where the next reply begins, or goes on after `prefill`."""
        empty: Message = {"role": role, "content": ""}
        *before, opening = self._render([*messages, empty])
        tokens = [*self._bos]
        for rendered in before:
            tokens += rendered.header + rendered.output
        return ModelInput.from_ints(tokens + opening.header + self._text.encode(prefill or ""))

    def build_supervised_example(
        self,
        messages: Sequence[Message],
        train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    ) -> tuple[ModelInput, torch.Tensor]:
        """Tokens of a conversation and their weights; raises DataError where it has no message."""
        if not messages:
            raise DataError("got a conversation without messages; it needs at least one")
        what = TrainOnWhat(train_on_what)
        whole = float(what is TrainOnWhat.ALL_TOKENS)
        tokens, weights = [*self._bos], [whole] * len(self._bos)
        parts, trained = list(self._render(messages)), list(trained_messages(messages, what))
        for part, weight in zip(parts, trained, strict=True):
            tokens += part.header + part.output
            weights += [whole] * len(part.header) + [weight] * len(part.output)
        tokens += parts[-1].stop_overlap
        weights += [trained[-1]] * len(parts[-1].stop_overlap)
        return ModelInput.from_ints(tokens), torch.from_numpy(np.array(weights, dtype=np.float32))

    def _render(self, messages: Sequence[Message]) -> Iterator[RenderedMessage]:
        last_user = last_user_index(messages)
        for index, message in enumerate(messages):
            check_message(message, index)
            yield self.render_message(message, RenderContext(index, index == len(messages) - 1, last_user))

    def _special(self, name: str) -> int:
        """Id of a token of the format; raises ConfigError where the tokenizer has none of that name."""
        ids = self.tokenizer.get_added_vocab() if hasattr(self.tokenizer, "get_added_vocab") else {}
        if name not in ids:
            raise ConfigError(
                f"{type(self).__name__} writes {name!r}, and the tokenizer has no such token; use "
                "get_recommended_renderer_name(model_name), or 'chat_template', which fits any model"
            )
        return ids[name]


def trained_messages(messages: Sequence[Message], what: TrainOnWhat) -> Iterator[float]:
    """1.0 for each message that is trained on, 0.0 for the others."""
    last_user, last = last_user_index(messages), len(messages) - 1
    for index, message in enumerate(messages):
        assistant = message["role"] == "assistant"
        match what:
            case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
                chosen = assistant and index == last
            case TrainOnWhat.LAST_ASSISTANT_TURN:
                chosen = assistant and index > last_user
            case TrainOnWhat.ALL_ASSISTANT_MESSAGES:
                chosen = assistant
            case TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
                chosen = message["role"] in ("user", "system")
            case TrainOnWhat.CUSTOMIZED:
                if "trainable" not in message:
                    raise DataError(f"message {index} has no 'trainable'; train_on_what='customized' needs it in each")
                chosen = message["trainable"]
            case _:
                chosen = True
        yield float(chosen)


def last_user_index(messages: Sequence[Message]) -> int:
    """Place of the last user message; -1 where there is none."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def check_message(message: Message, index: int) -> None:
    """Raises DataError where a message is not what a renderer can write."""
    if not {"role", "content"} <= message.keys():
        raise DataError(f"message {index} has the keys {sorted(message)}; it needs 'role' and 'content'")
    if message.get("tool_calls"):
        raise DataError(f"message {index} has tool_calls, which no renderer writes; put the call into the content")


def get_text_content(message: Message) -> str:
    """The words of a message without its thinking."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")  # type: ignore[typeddict-item]
