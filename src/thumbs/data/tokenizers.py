"""Tokenizers: what turns messages into tokens, and tells which of them the assistant wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import numpy as np

from thumbs.config.model import TemplateConfig
from thumbs.data.byte_files import byte_files
from thumbs.data.hf_tokenizer import HfTokenizer
from thumbs.data.messages import mask_of
from thumbs.errors import ConfigError, ModelError
from thumbs.records import Message, Reply
from thumbs.tracking.files import write_text

_BYTE_CLASS = "ThumbsByteTokenizer"


class Tokenizer(Protocol):
    """Text and messages to token ids and back. PAD is never a token that ends a reply."""

    name: str
    vocab_size: int
    pad_id: int
    eos_id: int
    """The token that ends a reply."""
    stop_ids: tuple[int, ...]
    """Every token after which a reply is over, eos_id first, those of generation_config.json included. An export writes
    them all."""
    marks: Mapping[str, int]
    """Tokens that decoded text does not show, by their names."""

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text; text that spells a special token stays text."""
        ...

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of tokens; never fails."""
        ...

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """UTF-8 bytes that a token adds to a text, perhaps a part of a character; nothing for special tokens.

        `first`: no other token of the text stands before it; some vocabularies write that one without its space.
        """
        ...

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages up to where the assistant's next reply begins."""
        ...

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and for each 1 where it is content of an assistant turn that is trained, or the
        token that ends it, else 0.
        """
        ...

    def render_turns(self, messages: Sequence[Message]) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Tokens of a conversation, and first and last + 1 of those of each assistant turn, by the number of its
        message; a turn that is written in another way than when it was the last has none.
        """
        ...

    def notes(self) -> list[str]:
        """What a user should know of the way messages are written, one sentence each."""
        ...

    def save(self, folder: str | Path) -> None:
        """Writes what load_tokenizer needs into `folder`."""
        ...

    def tokens_beyond(self, rows: int) -> tuple[list[str], list[str]]:
        """Tokens that an embedding of so many rows does not have: those that can occur, and those that cannot."""
        ...


class ByteTokenizer:
    """UTF-8 bytes and four marks: vocabulary 260 = 256 bytes, PAD 256, BOS 257, SEP 258, EOS 259.

    A conversation is [BOS]user[SEP]assistant[EOS], repeated; a system message stands on a line before the
    first user text.
    """

    PAD, BOS, SEP, EOS = 256, 257, 258, 259

    name: str = "byte"
    vocab_size: int = 260
    pad_id: int = PAD
    eos_id: int = EOS
    stop_ids: tuple[int, ...] = (EOS,)
    marks: Mapping[str, int] = MappingProxyType({"[PAD]": PAD, "[BOS]": BOS, "[SEP]": SEP, "[EOS]": EOS})

    def encode(self, text: str) -> list[int]:
        """UTF-8 bytes of the text; half surrogate pairs become question marks."""
        return list(text.encode("utf-8", "replace"))

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of the bytes; what is not UTF-8 becomes U+FFFD, marks are left out or written like [EOS]."""
        marks = {token: b"" if skip_special else name.encode() for name, token in self.marks.items()}
        parts = (bytes([token]) if 0 <= token < 256 else marks.get(int(token), b"\xff") for token in tokens)
        return b"".join(parts).decode("utf-8", "replace")

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """The byte itself; nothing for marks, and what decode writes for an id that is neither."""
        if 0 <= token < 256:
            return bytes([token])
        return b"" if token in (self.PAD, self.BOS, self.SEP, self.EOS) else b"\xff"

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages and the SEP after which the reply begins."""
        return [*self.render(messages)[0], self.SEP]

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and for each 1 where it is assistant content or its EOS, else 0."""
        tokens, spans = self.render_turns(messages)
        return tokens, mask_of(messages, len(tokens), spans)

    def render_turns(self, messages: Sequence[Message]) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Tokens of a conversation, and where each assistant turn's content and its EOS stand."""
        tokens: list[int] = []
        spans: dict[int, tuple[int, int]] = {}
        before = ""
        for number, message in enumerate(messages):
            body = self.encode(message.content)
            if message.role == "assistant":
                turn = [self.SEP, *body, self.EOS]
                spans[number] = len(tokens) + 1, len(tokens) + len(turn)
            else:
                turn = body if before == "system" else [self.BOS, *body]
                turn += self.encode("\n") if message.role == "system" else []
            tokens += turn
            before = message.role
        return tokens, spans

    def notes(self) -> list[str]:
        """Nothing: bytes have no chat template."""
        return []

    def tokens_beyond(self, rows: int) -> tuple[list[str], list[str]]:
        """Bytes and marks that an embedding of so many rows does not have; all of them can occur."""
        return [self.decode([token], skip_special=False) for token in range(rows, self.vocab_size)], []

    def save(self, folder: str | Path) -> None:
        """Writes the files of a tokenizer that `transformers` opens and load_tokenizer knows as this one."""
        for name, text in byte_files(_BYTE_CLASS).items():
            write_text(Path(folder) / name, text)


def conversation_tokens(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [N] up to the last one of the assistant, and the target-aligned mask [N - 1] of the assistant's tokens."""
    return _cut(*tokenizer.render(messages))


def reply_tokens(tokenizer: Tokenizer, prompt: Sequence[Message], reply: Reply) -> np.ndarray:
    """Tokens of a prompt and a reply, with the end token unless the reply was cut off."""
    tokens, _ = conversation_tokens(tokenizer, (*prompt, Message("assistant", reply.text)))
    return tokens if reply.stop_reason == "stop" else tokens[:-1]


def training_sequences(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Sequences, as conversation_tokens gives them, in which every assistant turn that is trained is so once, as the
    chat template writes it when it is the last.

    That is one sequence, and one more for each earlier turn that the template writes differently once more follows.
    """
    tokens, spans = tokenizer.render_turns(messages)
    sequences = [_cut(tokens, mask)] if any(mask := mask_of(messages, len(tokens), spans)) else []
    for number, message in enumerate(messages):
        if message.role == "assistant" and message.trained and number not in spans:
            tokens, own = tokenizer.render_turns(messages[: number + 1])
            if any(mask := mask_of(messages, len(tokens), {number: own[number]} if number in own else {})):
                sequences.append(_cut(tokens, mask))
    return sequences


def _cut(tokens: Sequence[int], mask: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    end = max(i for i, own in enumerate(mask) if own) + 1
    return np.asarray(tokens[:end], dtype=np.int64), np.asarray(mask[1:end], dtype=np.float32)


def load_tokenizer(folder: str | Path, template: TemplateConfig | None = None) -> Tokenizer:
    """Tokenizer of a model folder; raises ModelError when there is none that can be used, ConfigError for a variable
    that its chat template never reads.
    """
    config = Path(folder) / "tokenizer_config.json"
    try:
        settings = json.loads(config.read_bytes()) if config.is_file() else {}
    except ValueError as error:
        raise ModelError(f"{config} is not JSON: {error}") from None
    # Folders that older versions wrote name it as the class.
    is_byte = isinstance(settings, dict) and _BYTE_CLASS in (
        settings.get("thumbs_tokenizer"),
        settings.get("tokenizer_class"),
    )
    return byte_tokenizer(template) if is_byte else HfTokenizer(folder, template)


def byte_tokenizer(template: TemplateConfig | None = None) -> ByteTokenizer:
    """The tokenizer of bytes; raises ConfigError for variables of a template, since it has none."""
    if template is not None and template.variables:
        names = ", ".join(template.variables)
        raise ConfigError(f"model.template.variables sets {names}; a model of bytes has no chat template that reads it")
    return ByteTokenizer()
