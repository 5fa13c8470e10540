"""The named formats: role_colon, qwen3 and its variants, llama3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from thumbs.recipe.renderers.base import (
    Message,
    ParseTermination,
    RenderContext,
    RenderedMessage,
    StopCondition,
    TextPart,
    ThinkingPart,
    TurnRenderer,
    get_text_content,
)

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
        text, ending = self._ends_at(response, dict.fromkeys(self._text.stop_ids, ParseTermination.EOS))
        before, stop, _ = text.partition(self._STOP)
        return {"role": "assistant", "content": before.strip()}, ParseTermination.STOP_SEQUENCE if stop else ending


class Qwen3InstructRenderer(TurnRenderer):
    """`<|im_start|>role\\n…<|im_end|>\\n`: Qwen3 2507 instruct models, and ChatML in general. No thinking."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        self._start, self._end = self._special("<|im_start|>"), self._special("<|im_end|>")

    def get_stop_sequences(self) -> StopCondition:
        """`<|im_end|>`."""
        return [self._end]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """The turn; the newline after `<|im_end|>` belongs to the next header, as no model samples it."""
        before = self._text.encode("\n") if ctx.idx else []
        opening, words = self._turn(message, ctx)
        return RenderedMessage(
            header=[*before, self._start, *self._text.encode(opening)],
            output=[*self._text.encode(words), self._end],
        )

    def parse_response(self, response: Sequence[int]) -> tuple[Message, ParseTermination]:
        """The words before `<|im_end|>`, or before the end-of-text token."""
        ends = dict.fromkeys(self._text.stop_ids, ParseTermination.EOS) | {self._end: ParseTermination.STOP_SEQUENCE}
        text, ending = self._ends_at(response, ends)
        return {"role": "assistant", "content": self._content(text)}, ending

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        """What follows `<|im_start|>` up to where the words begin, and the words."""
        words = get_text_content(message)
        if message["role"] == "tool":
            return "user\n", f"<tool_response>\n{words}\n</tool_response>"
        return f"{message['role']}\n", words

    def _content(self, text: str) -> str | list[TextPart | ThinkingPart]:
        return text


class Qwen3Renderer(Qwen3InstructRenderer):
    """Qwen3 with thinking, as its chat template with enable_thinking=True writes it.

    The last reply opens with its thinking, which is empty where it has none; thinking of earlier replies is left out.
    """

    @property
    def has_extension_property(self) -> bool:
        """No: the thinking of a reply is gone in the next prompt."""
        return False

    def _turn(self, message: Message, ctx: RenderContext) -> tuple[str, str]:
        if message["role"] != "assistant":
            return super()._turn(message, ctx)
        thought, words = _split_thought(message)
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
        _, words = _split_thought(message)
        return (opening + _NO_THOUGHT, words.lstrip("\n")) if ctx.is_last else (opening, words)


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
        ends = dict.fromkeys(self._text.stop_ids, ParseTermination.EOS) | {self._end: ParseTermination.STOP_SEQUENCE}
        text, ending = self._ends_at(response, ends)
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
