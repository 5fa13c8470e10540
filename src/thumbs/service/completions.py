"""Shapes of OpenAI's completion API: what a reply looks like, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from thumbs.clients.types import SampledSequence
from thumbs.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class Shape:
    """One of the two APIs. `chat`: messages in and out instead of text."""

    chat: bool
    model: str
    tokenizer: Tokenizer
    stop: Sequence[str]
    """Texts that end a reply and are no part of it."""
    logprobs: int | None
    """Number of alternatives to tell with each token's logprob; None tells no logprobs."""
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def whole(self, sequences: Sequence[SampledSequence], prompt_tokens: int) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        sampled = sum(len(sequence.tokens) for sequence in sequences)
        choices = []
        for index, sequence in enumerate(sequences):
            text = self.text(sequence)
            content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            choices.append({"index": index, **content, "logprobs": self._logprobs(sequence), **_end(sequence)})
        return {**self._head(), "choices": choices, "usage": _usage(prompt_tokens, sampled)}

    def begin(self, index: int) -> bytes:
        """The event that opens a choice; empty where there is none."""
        return self._choice(index, {"delta": {"role": "assistant", "content": ""}}) if self.chat else b""

    def said(self, index: int, piece: str) -> bytes:
        """The event of a piece of text; empty for none."""
        return self._choice(index, {"delta": {"content": piece}} if self.chat else {"text": piece}) if piece else b""

    def end(self, index: int, sequence: SampledSequence) -> bytes:
        """The event that closes a choice."""
        return self._choice(index, {**({"delta": {}} if self.chat else {"text": ""}), **_end(sequence)})

    def used(self, prompt_tokens: int, sampled: int) -> bytes:
        """The event without a choice that tells how many tokens a stream took."""
        return self._event({"choices": [], "usage": _usage(prompt_tokens, sampled)})

    def text(self, sequence: SampledSequence) -> str:
        """What was said, up to the first stop."""
        text = self.tokenizer.decode(sequence.tokens)
        cuts = [at for stop in self.stop if stop and (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.key}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, content: dict[str, Any]) -> bytes:
        return self._event({"choices": [{"index": index, "finish_reason": None, **content}]})

    def _event(self, content: dict[str, Any]) -> bytes:
        head = self._head()
        if self.chat:
            head["object"] = "chat.completion.chunk"
        return b"data: " + json.dumps({**head, **content}).encode() + b"\n\n"

    def _logprobs(self, sequence: SampledSequence) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        tops = sequence.topk_logprobs or [None] * len(sequence.tokens)
        rows = [
            (self._token(token), logprob, [(self._token(other), value) for other, value in top or []])
            for token, logprob, top in zip(sequence.tokens, sequence.logprobs or [], tops, strict=True)
        ]
        if self.chat:
            return {
                "content": [{**_named(*row[:2]), "top_logprobs": [_named(*pair) for pair in row[2]]} for row in rows]
            }
        return {
            "tokens": [token for token, _, _ in rows],
            "token_logprobs": [logprob for _, logprob, _ in rows],
            "top_logprobs": [dict(top) for _, _, top in rows] if self.logprobs else None,
        }

    def _token(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special=False)


class Speech:
    """The text of one reply while its tokens come: no half characters, and nothing that may become a stop."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._tokens: list[int] = []
        self._before = self._start = 0
        self._heard, self._told = "", 0

    def add(self, token: int) -> str:
        """What can be told now.

        Each token is decoded with those of the piece before it, since some tokenizers write a first token differently.
        """
        self._tokens.append(token)
        decode, before, start = self._shape.tokenizer.decode, self._before, self._start
        piece = decode(self._tokens[before:])[len(decode(self._tokens[before:start])) :]
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._before, self._start = start, len(self._tokens)
        self._heard += piece
        return self._tell(self._safe())

    def end(self, sequence: SampledSequence) -> str:
        """The rest, when the reply is complete."""
        text = self._shape.text(sequence)
        told = self._heard[: self._told]
        return text[len(told) :] if text.startswith(told) else ""

    def _safe(self) -> int:
        """How much of the text belongs to the reply, whatever comes."""
        safe = len(self._heard)
        for stop in filter(None, self._shape.stop):
            at = self._heard.find(stop)
            overlaps = (n for n in range(min(len(stop) - 1, len(self._heard)), 0, -1) if self._heard.endswith(stop[:n]))
            safe = min(safe, at if at >= 0 else len(self._heard) - next(overlaps, 0))
        return safe

    def _tell(self, until: int) -> str:
        piece = self._heard[self._told : max(until, self._told)]
        self._told += len(piece)
        return piece


def _named(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _usage(prompt_tokens: int, sampled: int) -> dict[str, int]:
    total = prompt_tokens + sampled
    return {"prompt_tokens": prompt_tokens, "completion_tokens": sampled, "total_tokens": total}


def _end(sequence: SampledSequence) -> dict[str, Any]:
    return {"finish_reason": sequence.stop_reason}
