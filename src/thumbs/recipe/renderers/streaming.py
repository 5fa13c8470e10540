"""A reply token by token: what is new in it, text and thinking apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass
class StreamingMessageHeader:
    """A message begins."""

    role: str
    name: str | None = None


@dataclass
class StreamingTextDelta:
    """New text; content_index counts the changes between text and thinking."""

    text: str
    content_index: int = 0


@dataclass
class StreamingThinkingDelta:
    """New thinking."""

    thinking: str
    content_index: int = 0


class Utf8TokenDecoder:
    """Text of tokens as they come; what ends within a character waits for the rest."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode = tokenizer.decode
        self._tokens: list[int] = []
        self._begin = self._read = 0

    def decode(self, tokens: Iterable[int]) -> str:
        """What these tokens add. The tokens before are decoded with them, as spaces may depend on those."""
        self._tokens += tokens
        before = self._decode(self._tokens[self._begin : self._read])
        text = self._decode(self._tokens[self._begin :])
        if text.endswith("\ufffd"):
            return ""
        self._begin, self._read = self._read, len(self._tokens)
        return text[len(before) :]


def split_thinking(pieces: Iterable[str]) -> Iterator[StreamingTextDelta | StreamingThinkingDelta]:
    """Pieces of a reply as deltas; what stands between <think> and </think> is thinking."""
    held, index, thinking, begun = "", 0, False, False
    for piece in pieces:
        held += piece
        while (tag := "</think>" if thinking else "<think>") in held:
            before, _, held = held.partition(tag)
            yield from _delta(before, index, thinking=thinking)
            index += begun or bool(before)
            thinking, begun = not thinking, False
        kept = next((size for size in range(len(tag) - 1, 0, -1) if held.endswith(tag[:size])), 0)
        text, held = held[: len(held) - kept], held[len(held) - kept :]
        yield from _delta(text, index, thinking=thinking)
        begun = begun or bool(text)
    yield from _delta(held, index, thinking=thinking)


def _delta(text: str, index: int, *, thinking: bool) -> Iterator[StreamingTextDelta | StreamingThinkingDelta]:
    if text:
        yield StreamingThinkingDelta(text, index) if thinking else StreamingTextDelta(text, index)
