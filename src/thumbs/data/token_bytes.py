"""The bytes that each token stands for: a token may be half of a character, which no text can show.

Read from the decoder of a tokenizer.json, whose parts are those of the `tokenizers` library. Joined, the bytes of a
reply's tokens are the UTF-8 of its text; what is not UTF-8 stays as it was drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Reader = Callable[[str, bool], bytes]
"""Bytes of a token as it is spelled in the vocabulary; second: whether it is the first of its text."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WITHOUT_EFFECT = ("Fuse", "ByteFallback")


def byte_reader(decoder: Mapping[str, Any] | None) -> Reader | None:
    """How a decoder spells bytes; None for those whose tokens depend on their neighbours (WordPiece, CTC, none)."""
    parts = _flat(decoder)
    names = [part.get("type") for part in parts]
    if not names:
        return None
    if names == ["ByteLevel"]:
        return lambda token, first: _byte_level(token)
    fallback = "ByteFallback" in names
    stripped = {part["content"].encode() for part in parts if part["type"] == "Strip"}
    steps = [step for part in parts if part["type"] not in _WITHOUT_EFFECT for step in (_step(part),)]
    known = [step for step in steps if step is not None]
    if len(known) < len(steps):
        return None

    def read(token: str, first: bool) -> bytes:
        if fallback and (byte := _BYTE.fullmatch(token)):
            own = bytes([int(byte[1], 16)])
            return b"" if first and own in stripped else own
        for step in known:
            token = step(token, first)
        return token.encode("utf-8", "replace")

    return read


def _flat(decoder: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if decoder is None:
        return []
    return [part for each in decoder["decoders"] for part in _flat(each)] if "decoders" in decoder else [decoder]


def _step(part: Mapping[str, Any]) -> Callable[[str, bool], str] | None:
    """What one part of a decoder does to a token; None if that is not a matter of one token."""
    match part:
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            return lambda token, first: token.replace(old, new)
        case {"type": "Replace", "pattern": {"Regex": old}, "content": new}:
            pattern = re.compile(old)
            return lambda token, first: pattern.sub(lambda _: new, token)
        case {"type": "Metaspace", "replacement": mark}:
            keeps = part.get("prepend_scheme") == "never" or part.get("add_prefix_space") is False
            return lambda token, first: token.replace(mark, "" if first and not keeps else " ")
        case {"type": "Strip", "content": padding, "start": start, "stop": 0}:
            return lambda token, first: _strip(token, padding, start) if first else token
        case {"type": "BPEDecoder", "suffix": suffix}:
            return lambda token, first: token.replace(suffix, " ")
        case _:
            return None


def _strip(token: str, padding: str, most: int) -> str:
    while most and token.startswith(padding):
        token, most = token.removeprefix(padding), most - 1
    return token


def _byte_level(token: str) -> bytes:
    """A token with a character that stands for no byte (an added one) is its own text, as in the library."""
    known = [BYTES.get(character) for character in token]
    found = [byte for byte in known if byte is not None]
    return bytes(found) if len(found) == len(known) else token.encode("utf-8", "replace")


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTES = _byte_alphabet()
"""The characters of byte-level vocabularies (GPT-2): printable bytes are themselves, others begin at U+0100."""
