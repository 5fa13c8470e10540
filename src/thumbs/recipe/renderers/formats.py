"""The named formats: role_colon, qwen3 and its variants, llama3."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from thumbs.errors import ConfigError
from thumbs.recipe.renderers.base import RenderContext, RenderedMessage, TurnRenderer
from thumbs.recipe.renderers.messages import (
    Message,
    MessageDelta,
    ParseTermination,
    StopCondition,
    TextPart,
    ThinkingPart,
    get_text_content,
)
from thumbs.recipe.renderers.tools import split_calls, write_calls

_OPEN, _CLOSE = "<think>", "</think>"
_NO_THOUGHT = f"{_OPEN}\n\n{_CLOSE}\n\n"


class RoleColonRenderer(TurnRenderer):
    """`User: …\\n\\nAssistant: …\\n\\n`, for base models. A reply ends where the next `User:` begins."""

    _STOP = "\n\nUser:"

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        bos = getattr(tokenizer, "bos_token_id", None)
        self._bos = [] if bos is None else [bos]

    def get_stop_sequences(self) -> StopCondition:
        """The beginning of the next user turn."""
        return [self._STOP]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """`Role:` and the words; after the last reply also `User:`, which completes the stop sequence."""
        return RenderedMessage(
            header=self._text.encode(message["role"].capitalize() + ":"),
            output=self._text.encode(f" {get_text_content(message)}\n\n"),
            stop_overlap=self._text.encode("User:") if message["role"] == "assistant" else [],
        )

    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The words before the stop sequence, or before the end-of-text token of a base model."""
        text, ending = self._before_end(response)
        before, stop, _ = text.partition(self._STOP)
        return {"role": "assistant", "content": before.strip()}, ParseTermination.STOP_SEQUENCE if stop else ending

    def parse_response_streaming(self, response: Iterable[int]) -> Iterator[MessageDelta]:
        """Not here, as the stop sequence is text: raises ConfigError."""
        raise ConfigError("role_colon cannot tell text from its stop sequence token by token; use parse_response")


class Qwen3InstructRenderer(TurnRenderer):
    """`<|im_start|>role\\n…<|im_end|>\\n`: Qwen3 2507 instruct models, and ChatML in general. No thinking."""

    _calls_tools = True

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._start, self._end = self._special("<|im_start|>"), self._special("<|im_end|>")

    def get_stop_sequences(self) -> StopCondition:
        """`<|im_end|>`."""
        return [self._end]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """The turn; the newline after `<|im_end|>` belongs to the next header, as no model samples it.

        Answers of tools that follow each other share a turn.
        """
        before = self._text.encode("\n") if ctx.idx else []
        opening, words = self._turn(message, ctx)
        header, end = [*before, self._start, *self._text.encode(opening)], [self._end]
        if message["role"] == "tool":
            header = before if _is_tool(ctx.prev_message) else header
            end = [] if _is_tool(ctx.next_message) else end
        return RenderedMessage(header=header, output=[*self._text.encode(words), *end])

    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The words before `<|im_end|>`, or before the end-of-text token, and the tool calls in them."""
        text, ending = self._before_end(response)
        words, calls, unparsed = split_calls(text)
        message: Message = {"role": "assistant", "content": self._content(words)}
        if calls:
            message["tool_calls"] = calls
        if unparsed:
            message["unparsed_tool_calls"] = unparsed
        return message, ending

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        """What follows `<|im_start|>` up to where the words begin, and the words."""
        words = get_text_content(message)
        if message["role"] == "tool":
            return "user\n", f"<tool_response>\n{words}\n</tool_response>"
        return f"{message['role']}\n", write_calls(words, message.get("tool_calls") or ())

    def _content(self, text: str) -> str | list[TextPart | ThinkingPart]:
        return text


class Qwen3Renderer(Qwen3InstructRenderer):
    """Qwen3 with thinking, as its chat template with enable_thinking=True writes it.

    The last reply opens with its thinking, which is empty where it has none; thinking of earlier replies is left out.
    """

    _thinks = True

    @property
    def has_extension_property(self) -> bool:
        """No: the thinking of a reply is gone in the next prompt."""
        return False

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        if message["role"] != "assistant":
            return super()._turn(message, ctx)
        thought, words = _split_thought(message)
        words = write_calls(words, message.get("tool_calls") or ())
        if ctx.idx > ctx.last_user_index >= 0 and (ctx.is_last or thought):
            words = f"{_OPEN}\n{thought}\n{_CLOSE}\n\n" + words.lstrip("\n")
        return "assistant\n", words

    def _content(self, text: str) -> str | list[TextPart | ThinkingPart]:
        if _CLOSE not in text:
            return text
        thought, words = _split_thought({"role": "assistant", "content": text})
        if not thought:
            return words
        return [{"type": "thinking", "thinking": thought}, {"type": "text", "text": words}]


class Qwen3DisableThinkingRenderer(Qwen3Renderer):
    """Qwen3 with enable_thinking=False: an empty thought stands in the prompt, so it is neither sampled nor trained."""

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        opening, words = Qwen3InstructRenderer._turn(self, message, ctx)
        if message["role"] != "assistant":
            return opening, words
        words = write_calls(_split_thought(message)[1], message.get("tool_calls") or ())
        return (opening + _NO_THOUGHT, words.lstrip("\n")) if ctx.is_last else (opening, words)


class Qwen35Renderer(Qwen3Renderer):
    """Qwen3.5 and 3.6 with thinking: the prompt opens the thought, and white space around words is left out.

    Their tool calls, which are XML, are not written.
    """

    _calls_tools = False
    _prompted = f"{_OPEN}\n"

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        if message["role"] != "assistant":
            opening, words = super()._turn(message, ctx)
            return opening, words.strip()
        thought, words = _split_thought(message)
        if ctx.idx <= ctx.last_user_index:
            return "assistant\n", words.strip()
        whole = f"{_OPEN}\n{thought}\n{_CLOSE}\n\n{words.strip()}"
        opened = self._prompted if ctx.is_last else ""
        return f"assistant\n{opened}", whole.removeprefix(opened)


class Qwen35DisableThinkingRenderer(Qwen35Renderer):
    """Qwen3.5 and 3.6 with enable_thinking=False: an empty thought stands in the prompt."""

    _prompted = _NO_THOUGHT

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        if message["role"] == "assistant":
            message = {**message, "content": _split_thought(message)[1]}
        return super()._turn(message, ctx)


class Llama3Renderer(TurnRenderer):
    """`<|start_header_id|>role<|end_header_id|>\\n\\n…<|eot_id|>`, without the dates that Llama 3.1 and later add."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._bos = [self._special("<|begin_of_text|>")]
        self._start, self._close = self._special("<|start_header_id|>"), self._special("<|end_header_id|>")
        self._end = self._special("<|eot_id|>")

    def get_stop_sequences(self) -> StopCondition:
        """`<|eot_id|>`."""
        return [self._end]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """The turn; white space around the words is left out, as the chat template does."""
        return RenderedMessage(
            header=[self._start, *self._text.encode(message["role"]), self._close, *self._text.encode("\n\n")],
            output=[*self._text.encode(get_text_content(message).strip()), self._end],
        )

    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The words before `<|eot_id|>`, or before the end-of-text token."""
        text, ending = self._before_end(response)
        return {"role": "assistant", "content": text}, ending


def _split_thought(message: Message) -> tuple[str, str]:
    """The thinking of a reply and its words, both as the template cuts them."""
    content = message["content"]
    if not isinstance(content, str):
        thoughts = [part["thinking"] for part in content if part["type"] == "thinking"]  # type: ignore[typeddict-item]
        return "".join(thoughts).strip("\n"), get_text_content(message)
    if _CLOSE not in content:
        return "", content
    thought = content.split(_CLOSE)[0].rpartition(_OPEN)[2]
    return thought.strip("\n"), content.split(_CLOSE)[-1].lstrip("\n")


def _is_tool(message: Message | None) -> bool:
    return message is not None and message["role"] == "tool"
