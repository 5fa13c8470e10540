"""What a renderer is: messages to tokens with training weights, and sampled tokens back to a message."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from thumbs.clients.types import ModelInput
from thumbs.errors import ConfigError, DataError
from thumbs.recipe.renderers.messages import (
    ContentPart,
    Message,
    MessageDelta,
    ParseFailureKind,
    ParseTermination,
    Role,
    StopCondition,
    TextPart,
    ThinkingPart,
    TrainOnWhat,
    classify_parse_failure,
    ensure_list,
    ensure_text,
    format_content_as_string,
    get_text_content,
)
from thumbs.recipe.renderers.streaming import (
    StreamingMessageHeader,
    StreamingTextDelta,
    StreamingThinkingDelta,
    Utf8TokenDecoder,
    split_thinking,
)
from thumbs.recipe.renderers.tools import ToolCall, ToolSpec, UnparsedToolCall, tools_prefix
from thumbs.recipe.tokenizers import text_tokenizer

__all__ = [
    "ContentPart",
    "Message",
    "MessageDelta",
    "ParseFailureKind",
    "ParseTermination",
    "RenderContext",
    "RenderedMessage",
    "Renderer",
    "Role",
    "StopCondition",
    "StreamingMessageHeader",
    "StreamingTextDelta",
    "StreamingThinkingDelta",
    "TextPart",
    "ThinkingPart",
    "ToolCall",
    "ToolSpec",
    "TrainOnWhat",
    "TurnRenderer",
    "UnparsedToolCall",
    "Utf8TokenDecoder",
    "classify_parse_failure",
    "ensure_list",
    "ensure_text",
    "format_content_as_string",
    "get_text_content",
]


@dataclass(frozen=True)
class RenderContext:
    """Where in its conversation a message stands."""

    idx: int
    is_last: bool
    prev_message: Message | None = None
    next_message: Message | None = None
    last_user_index: int = -1


@dataclass(frozen=True)
class RenderedMessage:
    """Tokens of a message: what stands before the words, the words and their end, and what only sampling adds."""

    output: list[int]
    header: list[int] = field(default_factory=list)
    stop_overlap: list[int] = field(default_factory=list)


class Renderer(ABC):
    """Writes conversations in a model's format and reads its replies. Safe to use from several threads."""

    _thinks = False
    _calls_tools = False

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

    def parse_response_streaming(self, response: Iterable[int]) -> Iterator[MessageDelta]:
        """A header, what each token adds, and at last the whole message, as parse_response has it."""
        tokens: list[int] = []
        ends = self._ends()

        def pieces() -> Iterator[str]:
            decoder = Utf8TokenDecoder(self._text)
            over = False
            for token in response:
                tokens.append(token)
                over = over or token in ends
                if not over:
                    yield decoder.decode([token])

        yield StreamingMessageHeader("assistant")
        if self._thinks:
            yield from split_thinking(pieces())
        else:
            yield from (StreamingTextDelta(piece) for piece in pieces() if piece)
        yield self.parse_response(tokens)[0]

    def create_conversation_prefix_with_tools(self, tools: list[ToolSpec], system_prompt: str = "") -> list[Message]:
        """The system message that tells a model of its tools; ConfigError where the format has none."""
        if not self._calls_tools:
            raise ConfigError(f"{type(self).__name__} has no format for tools; the renderers qwen3… do")
        return [{"role": "system", "content": tools_prefix(tools, system_prompt)}]

    def to_openai_message(self, message: Message) -> dict[str, Any]:
        """The message as chat APIs write it; thinking stands between its tags."""
        result: dict[str, Any] = {"role": message["role"], "content": format_content_as_string(message["content"], "")}
        if calls := message.get("tool_calls"):
            result["tool_calls"] = [call.model_dump() for call in calls]
        return result | {key: value for key, value in message.items() if key in ("tool_call_id", "name")}

    def _ends(self) -> dict[int, ParseTermination]:
        """The tokens after which a reply is over."""
        ends = dict.fromkeys(self._text.stop_ids, ParseTermination.EOS)
        own = [token for token in self.get_stop_sequences() if isinstance(token, int)]
        return ends | dict.fromkeys(own, ParseTermination.STOP_SEQUENCE)

    def _before_end(self, response: Sequence[int]) -> tuple[str, ParseTermination]:
        """The text before the token that ends a reply, and which kind of end that is."""
        ends = self._ends()
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
            check_message(message, index, tools=self._calls_tools)
            before = messages[index - 1] if index else None
            after = messages[index + 1] if index + 1 < len(messages) else None
            yield self.render_message(message, RenderContext(index, after is None, before, after, last_user))

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
    turn, last = last_turn_start(messages), len(messages) - 1
    for index, message in enumerate(messages):
        assistant = message["role"] == "assistant"
        match what:
            case TrainOnWhat.LAST_ASSISTANT_MESSAGE:
                chosen = assistant and index == last
            case TrainOnWhat.LAST_ASSISTANT_TURN:
                chosen = assistant and index >= turn
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


def last_turn_start(messages: Sequence[Message]) -> int:
    """Where the last assistant turn begins: after the last user message that an assistant has answered."""
    replies = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    return last_user_index(messages[: replies[-1]] if replies else messages) + 1


def last_user_index(messages: Sequence[Message]) -> int:
    """Place of the last user message; -1 where there is none."""
    return max((i for i, message in enumerate(messages) if message["role"] == "user"), default=-1)


def check_message(message: Message, index: int, *, tools: bool = False) -> None:
    """Raises DataError where a message is not what a renderer can write."""
    if not {"role", "content"} <= message.keys():
        raise DataError(f"message {index} has the keys {sorted(message)}; it needs 'role' and 'content'")
    if message.get("tool_calls") and not tools:
        raise DataError(
            f"message {index} has tool_calls, which the renderers qwen3… alone write; put the call into the content"
        )
