"""The text of one reply with the logprobs of its tokens, at once or while they come: no half characters, no stops."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from thumbs.clients.types import SampledSequence
from thumbs.data.tokenizers import Tokenizer

Top = Sequence[tuple[int, float]]

_LOWEST = -9999.0
"""Told for a logprob of minus infinity, which JSON cannot hold; OpenAI's number."""


@dataclass(frozen=True)
class TokenRow:
    """A token as it is told. own: its bytes; offset: of its first character in the text; top: other likely tokens.

    logprob None: the first token of a prompt, before which there is nothing.
    """

    token: int
    own: bytes
    offset: int
    logprob: float | None
    top: Top = ()

    def told(self, most: int) -> list[tuple[int, float]]:
        """The `most` likeliest tokens with their logprobs, and the token itself if it is not among them."""
        if self.logprob is None:
            return []
        own = max(self.logprob, _LOWEST)
        likely = [(token, own if token == self.token else max(value, _LOWEST)) for token, value in self.top[:most]]
        return likely if any(token == self.token for token, _ in likely) else [*likely, (self.token, own)]


@dataclass(frozen=True)
class Said:
    """A piece of a reply; its rows begin in it."""

    text: str = ""
    rows: Sequence[TokenRow] = ()


@dataclass(frozen=True)
class DrawnToken:
    """A token as it was drawn."""

    token: int
    logprob: float | None
    top: Top = ()


class Speech:
    """One reply. `stop`: texts that end it and are not part of it.

    `prompt`: tokens that are repeated before it; every token has a row then, special ones included, as those who count
    them expect. Otherwise rows are of tokens that the text holds. `opens`: the reply is a text of its own, rather than
    the rest of one.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), prompt: Sequence[DrawnToken] | None = None, *, opens: bool
    ) -> None:
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._characters = _Characters()
        self._opens, self._whole = opens or prompt is not None, prompt is not None
        self._count = self._told = self._given = 0
        self._rows: list[TokenRow] = []
        for token in prompt or ():
            self._read(token)
        self._start = len(self._characters.text)  # stops are looked for from here on

    def add(self, token: DrawnToken) -> Said:
        """What can be told now, with one more token."""
        self._count += 1
        self._read(token)
        return self._tell(self._safe())

    def end(self, sequence: SampledSequence) -> Said:
        """The rest, when the reply is complete; also of tokens that were not added."""
        for token in drawn(sequence)[self._count :]:
            self._read(token)
        self._characters.end()
        text = self._characters.text
        cuts = [at for stop in self._stop if (at := text.find(stop, self._start)) >= 0]
        return self._tell(min(cuts, default=len(text)), ends=self._whole)

    def _read(self, drawn: DrawnToken) -> None:
        own = self._tokenizer.token_bytes(drawn.token, self._opens)
        if self._opens and self._tokenizer.token_bytes(drawn.token):  # of the text, though its space may be dropped
            self._opens = False
        offset = self._characters.read(own)
        if own or self._whole:
            self._rows.append(TokenRow(drawn.token, own, offset, drawn.logprob, drawn.top))

    def _safe(self) -> int:
        """How much of the text belongs to the reply, whatever comes."""
        text, begin = self._characters.text, max(self._told, self._start)
        safe = len(text)
        for stop in self._stop:
            at = text.find(stop, begin)
            overlaps = (n for n in range(min(len(stop) - 1, len(text) - begin), 0, -1) if text.endswith(stop[:n]))
            safe = min(safe, at if at >= 0 else len(text) - next(overlaps, 0))
        return safe

    def _tell(self, until: int, ends: bool = False) -> Said:
        text = self._characters.text[self._told : max(until, self._told)]
        self._told += len(text)
        rows = []
        while self._given < len(self._rows) and (ends or self._rows[self._given].offset < self._told):
            rows.append(self._rows[self._given])
            self._given += 1
        return Said(text, rows)


class _Characters:
    """Bytes on their way to text. What is not UTF-8 becomes U+FFFD, as when all bytes are decoded together."""

    def __init__(self) -> None:
        self.text = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self, piece: bytes) -> int:
        """Takes more bytes; returns the place in the text of the character that the first of them belongs to."""
        if not piece:
            return len(self.text)
        first, rest = piece[:1], piece[1:]
        begun, before = bool(self._decoder.getstate()[0]), len(self.text)
        text = self._decoder.decode(first)
        # A begun character that this byte does not go on with was not a character, and stands before it as U+FFFD.
        broken = begun and text.startswith("\ufffd") and (len(text) > 1 or bool(self._decoder.getstate()[0]))
        self.text += text + self._decoder.decode(rest)
        return before + broken

    def end(self) -> None:
        """No more bytes come."""
        self.text += self._decoder.decode(b"", final=True)


def heard(
    tokens: Sequence[int], logprobs: Sequence[float | None] | None, tops: Sequence[Top | None] | None
) -> list[DrawnToken]:
    """Tokens with their logprobs and the likely ones in their places, as far as these were asked for."""
    none = [None] * len(tokens)
    rows = zip(tokens, logprobs or none, tops or none, strict=True)
    return [DrawnToken(token, logprob, top or ()) for token, logprob, top in rows]


def drawn(sequence: SampledSequence) -> list[DrawnToken]:
    """The tokens of a sample."""
    return heard(sequence.tokens, sequence.logprobs, sequence.topk_logprobs)
