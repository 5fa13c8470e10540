"""Marks: the tokens that divide turns, which no text may forge.

A mark in a text is cut after its first character before the text is encoded, so it becomes ordinary tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer as Encoder

from thumbs.errors import ModelError

GUARD = "\ufdd0"
"""A Unicode noncharacter: no text may hold it, so it can say where a text is cut."""


def build_encoder(spec: dict[str, Any], marks: Iterable[str] = ()) -> Encoder:
    """The encoder of a tokenizer.json; its special tokens, and `marks`, are matched as they are written.

    Matched after normalisation, a mark could be spelled in ways that no guard foresees. Raises ModelError for what is
    no tokenizer.json.
    """
    marks = set(marks)
    for token in spec.get("added_tokens") or ():
        if token["special"] or token["content"] in marks:
            token["normalized"] = False
    try:
        encoder = Encoder.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"tokenizer.json cannot be used: {error}") from None
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def encode(encoder: Encoder, text: str) -> list[int]:
    """Tokens of a text with guards in it."""
    return [token for part in text.split(GUARD) for token in encoder.encode(part, add_special_tokens=False).ids]


def forgery_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Matches the first character of every spelling of a mark, also of those that overlap."""
    names = sorted(set(names))
    if any(len(name) < 2 for name in names):
        raise ModelError(f"special tokens of one character cannot be kept out of texts: {names}")
    return re.compile(rf"(?=(?:{'|'.join(map(re.escape, names))}))(.)", re.DOTALL)


def guarded(text: str, forged: re.Pattern[str]) -> str:
    """The text with every mark in it cut; half surrogate pairs become question marks."""
    text = text.replace(GUARD, "").encode("utf-8", "replace").decode("utf-8")
    return forged.sub(rf"\1{GUARD}", text)


def written_marks(encoder: Encoder, literals: str, written: Sequence[str]) -> set[str]:
    """Added tokens that are not special, and that the template writes as marks.

    literals: the texts in the template's source; written: what it wrote around the words of some messages. Tokens of
    letters or of white space alone count only if they were written, and white space never does: vocabularies hold runs
    of spaces as added tokens, which are ordinary text.
    """
    plain = {i: token.content for i, token in encoder.get_added_tokens_decoder().items() if not token.special}
    names = {name for name in plain.values() if name in literals and not name.replace(" ", "").isalnum()}
    names |= {plain[i] for text in written for i in encode(encoder, text) if i in plain}
    return {name for name in names if len(name) > 1 and name.strip()}
