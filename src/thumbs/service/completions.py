"""Shapes of OpenAI's completion API: what a reply looks like, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thumbs.clients.types import SampledSequence
from thumbs.data.tokenizers import Tokenizer
from thumbs.service.requests import to_json
from thumbs.service.speech import DrawnToken, Said, Speech, TokenRow


@dataclass(frozen=True)
class Shape:
    """One of the two APIs. `chat`: messages in and out instead of text."""

    chat: bool
    model: str
    tokenizer: Tokenizer
    stop: Sequence[str]
    """Texts that end a reply and are not part of it."""
    logprobs: int | None
    """Number of alternatives to tell with each token's logprob; None tells no logprobs."""
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def speech(self, prompt: Sequence[DrawnToken] | None = None) -> Speech:
        """A reply that begins; after the prompt, if that is to be repeated."""
        return Speech(self.tokenizer, self.stop, prompt, opens=self.chat)

    def whole(
        self, replies: Sequence[tuple[SampledSequence, Sequence[DrawnToken] | None]], prompt_tokens: int
    ) -> dict[str, Any]:
        """The reply to a request that does not stream: samples, each with the prompt that it is to repeat."""
        choices = []
        for index, (sequence, prompt) in enumerate(replies):
            said = self.speech(prompt).end(sequence)
            content = {"message": {"role": "assistant", "content": said.text}} if self.chat else {"text": said.text}
            choices.append({"index": index, **content, "logprobs": self._logprobs(said.rows), **_end(sequence)})
        return {**self._head(), "choices": choices, "usage": _usage(prompt_tokens, [each for each, _ in replies])}

    def begin(self, index: int) -> bytes:
        """The event that opens a choice; empty where there is none."""
        return self._choice(index, {"delta": {"role": "assistant", "content": ""}}) if self.chat else b""

    def said(self, index: int, said: Said) -> bytes:
        """The event of a piece of a reply; empty for none."""
        if not said.text and not (said.rows and self.logprobs is not None):
            return b""
        content = {"delta": {"content": said.text}} if self.chat else {"text": said.text}
        return self._choice(index, {**content, "logprobs": self._logprobs(said.rows)})

    def end(self, index: int, sequence: SampledSequence) -> bytes:
        """The event that closes a choice."""
        return self._choice(index, {**({"delta": {}} if self.chat else {"text": ""}), **_end(sequence)})

    def used(self, prompt_tokens: int, sequences: Sequence[SampledSequence]) -> bytes:
        """The event without a choice that tells how many tokens a stream took."""
        return self._event({"choices": [], "usage": _usage(prompt_tokens, sequences)})

    def _head(self) -> dict[str, Any]:
        kind = "chat.completion" if self.chat else "text_completion"
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.key}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, content: Mapping[str, Any]) -> bytes:
        return self._event({"choices": [{"index": index, "logprobs": None, "finish_reason": None, **content}]})

    def _event(self, content: dict[str, Any]) -> bytes:
        head = self._head()
        if self.chat:
            head["object"] = "chat.completion.chunk"
        return b"data: " + to_json({**head, **content}) + b"\n\n"

    def _logprobs(self, rows: Sequence[TokenRow]) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return {"content": list(map(self._chat_row, rows)), "refusal": None} if self.chat else self._columns(rows)

    def _chat_row(self, row: TokenRow) -> dict[str, Any]:
        """With the alternatives that were asked for, and the token itself among them."""
        others = row.told(self.logprobs) if self.logprobs else []
        named = {"token": self._name(row.token, row.own), "logprob": row.told(0)[0][1], "bytes": list(row.own)}
        return {**named, "top_logprobs": [self._alternative(row, *other) for other in others]}

    def _alternative(self, row: TokenRow, token: int, logprob: float) -> dict[str, Any]:
        own = row.own if token == row.token else self.tokenizer.token_bytes(token)
        return {"token": self._name(token, own), "logprob": logprob, "bytes": list(own)}

    def _columns(self, rows: Sequence[TokenRow]) -> dict[str, Any]:
        """Completions tell columns, and alternatives by name."""
        return {
            "tokens": [self._name(row.token, row.own) for row in rows],
            "token_logprobs": [None if row.logprob is None else row.told(0)[0][1] for row in rows],
            "top_logprobs": [None if row.logprob is None else self._by_name(row) for row in rows],
            "text_offset": [row.offset for row in rows],
        }

    def _by_name(self, row: TokenRow) -> dict[str, float]:
        """Two tokens may have one text; then the row's own, or the likelier one, has it as its name."""
        named: dict[str, float] = {}
        own = self._name(row.token, row.own)
        for token, logprob in row.told(self.logprobs or 0):
            name = own if token == row.token else self._name(token, self.tokenizer.token_bytes(token))
            clashes = name in named or (name == own and token != row.token)
            named[f"token_id:{token}" if clashes else name] = logprob
        return named

    def _name(self, token: int, own: bytes) -> str:
        """A token's text; a part of a character as its bytes, special tokens as they are spelled."""
        if own:
            try:
                return own.decode()
            except UnicodeDecodeError:
                written = "".join(f"\\x{byte:02x}" for byte in own)
                return written if self.chat else f"bytes:{written}"
        return self.tokenizer.decode([token], skip_special=False) or f"token_id:{token}"


def _usage(prompt_tokens: int, sequences: Sequence[SampledSequence]) -> dict[str, int]:
    sampled = sum(len(sequence.tokens) for sequence in sequences)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": sampled,
        "total_tokens": prompt_tokens + sampled,
    }


def _end(sequence: SampledSequence) -> dict[str, Any]:
    return {"finish_reason": sequence.stop_reason}
