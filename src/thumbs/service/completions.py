"""Shapes of OpenAI's completion API: what a reply looks like, whole and in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
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
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": prompt_tokens + sampled,
        }
        choices = []
        for index, sequence in enumerate(sequences):
            text = self.text(sequence)
            content = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            choices.append({"index": index, **content, "logprobs": self._logprobs(sequence), **_end(sequence)})
        return {**self._head(), "choices": choices, "usage": usage}

    def pieces(self, sequences: Sequence[SampledSequence]) -> Iterator[bytes]:
        """The same as server-sent events, about a token each."""
        for index, sequence in enumerate(sequences):
            if self.chat:
                yield self._event(index, {"delta": {"role": "assistant", "content": ""}})
            for piece in self._split(sequence):
                yield self._event(index, {"delta": {"content": piece}} if self.chat else {"text": piece})
            yield self._event(index, {**({"delta": {}} if self.chat else {"text": ""}), **_end(sequence)})
        yield b"data: [DONE]\n\n"

    def text(self, sequence: SampledSequence) -> str:
        """What was said, up to the first stop."""
        text = self.tokenizer.decode(sequence.tokens)
        cuts = [at for stop in self.stop if stop and (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text

    def _split(self, sequence: SampledSequence) -> Iterator[str]:
        """The text in pieces that end where a token does and hold no half characters.

        Each token is decoded with those of the piece before it, since some tokenizers write a first token differently.
        """
        text, tokens, decode = self.text(sequence), sequence.tokens, self.tokenizer.decode
        told = before = start = 0
        for end in range(1, len(tokens) + 1):
            piece = decode(tokens[before:end])[len(decode(tokens[before:start])) :]
            if not piece or piece.endswith("\ufffd") or not text.startswith(piece, told):
                continue
            yield piece
            told, before, start = told + len(piece), start, end
        if told < len(text):
            yield text[told:]

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.key}", "object": kind, "created": self.created, "model": self.model}

    def _event(self, index: int, content: dict[str, Any]) -> bytes:
        head = self._head()
        if self.chat:
            head["object"] = "chat.completion.chunk"
        event = {**head, "choices": [{"index": index, "finish_reason": None, **content}]}
        return b"data: " + json.dumps(event).encode() + b"\n\n"

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


def _named(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}


def _end(sequence: SampledSequence) -> dict[str, Any]:
    return {"finish_reason": sequence.stop_reason}
