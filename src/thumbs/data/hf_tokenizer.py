"""The tokenizer of a Hugging Face model folder, with its chat template and the mask of who wrote what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Encoder

from thumbs.data.chat_template import ROLE_COLON, ChatTemplate
from thumbs.data.sources import RowError
from thumbs.errors import ModelError
from thumbs.records import Message
from thumbs.tracking.files import write_text

_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_GUARD = "\ufdd0"  # a Unicode noncharacter: no text may hold it, so it can mark places in one
_PROBE = (Message("user", "Hello"), Message("assistant", "Welcome"))


class HfTokenizer:
    """Tokenizer of a folder with tokenizer.json and tokenizer_config.json.

    * Text that users or models write never becomes a special token: wherever it spells one, it is cut after
      the first character before encoding. All other text gets exactly the tokens of `transformers`.
    * eos_id is the token with which the chat template ends a reply; stop_ids adds the configured eos_token.
    * pad_id is the configured pad_token unless that is a stop token; then it is the last special token that
      is none, or without such a token the lowest other id (padding is masked, so its meaning does not
      matter).
    * A folder without a chat template gets "User:\\n…\\n\\nAssistant:\\n…" with eos_token after each reply.
      In such plain text a message can imitate a turn of the other side; a template with special tokens is
      proof against that.
    """

    def __init__(self, folder: str | Path) -> None:
        """Reads the folder; raises ModelError when a file is missing or broken, or no token ends a reply."""
        folder = Path(folder)
        self.name = folder.name
        try:
            self._files = {
                name: (folder / name).read_text(encoding="utf-8") for name in _FILES if (folder / name).is_file()
            }
            if "tokenizer.json" not in self._files:
                raise ModelError("no tokenizer.json; give the folder of a model with a fast tokenizer")
            config = {**self._read("special_tokens_map.json"), **self._read("tokenizer_config.json")}
            self._encoder = _build_encoder(self._read("tokenizer.json"))
            names = {key: text for key, value in config.items() if (text := _token_text(key, value))}
            self._template = ChatTemplate(self._template_source(config), names)
        except (ValueError, TypeError, LookupError, OSError) as error:
            raise ModelError(f"{folder}: {error}") from None
        self.vocab_size = max(self._encoder.get_vocab(with_added_tokens=True).values()) + 1
        added = self._encoder.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        self.eos_id = self._find_end(set(added))
        eos = self._encoder.token_to_id(names.get("eos_token", ""))
        self.stop_ids = tuple(dict.fromkeys(i for i in (self.eos_id, eos) if i is not None))
        self.pad_id = self._choose_pad(names.get("pad_token", ""), special)
        self._forged = _forgery_pattern(added[i].content for i in special.union(self.stop_ids) if i in added)

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, without BOS or EOS; text that spells a special token stays text."""
        return self._encode_guarded(self._guard(text))

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of the tokens; ids outside the vocabulary are left out."""
        known = [int(token) for token in tokens if 0 <= token < self.vocab_size]
        return self._encoder.decode(known, skip_special_tokens=skip_special)

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages up to where the assistant's next reply begins.

        Raises RowError (a DataError) when the template refuses the messages.
        """
        return [token for piece in self._pieces(messages, opens_reply=True) for token in piece]

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and for each 1 where it is assistant content or the token that ends it,
        else 0.

        Tokens of render_prompt(messages[:-1]) are a prefix of them. Raises RowError (a DataError) when the
        template refuses the messages, writes the turns before a reply in another way once the reply is
        there, or does not end it.
        """
        opening, *replies = self._pieces(messages, opens_reply=False)
        tokens, mask = list(opening), [0] * len(opening)
        for piece in replies:
            end = next((i for i, token in enumerate(piece, start=1) if token in self.stop_ids), None)
            if end is None:
                raise RowError("template", "the model's chat template does not end an assistant turn with a stop token")
            tokens += piece
            mask += [1] * end + [0] * (len(piece) - end)
        return tokens, mask

    def save(self, folder: str | Path) -> None:
        """Writes the files that were read into `folder`, each at once or not at all."""
        for name, text in self._files.items():
            write_text(Path(folder) / name, text)

    def _read(self, name: str) -> dict[str, Any]:
        value = json.loads(self._files.get(name, "{}"))
        if not isinstance(value, dict):
            raise ModelError(f"{name} must hold an object")
        return value

    def _template_source(self, config: Mapping[str, Any]) -> str:
        if "chat_template.jinja" in self._files:
            return self._files["chat_template.jinja"]
        source = config.get("chat_template") or ROLE_COLON
        if isinstance(source, list):
            return {item["name"]: item["template"] for item in source}.get("default", ROLE_COLON)
        return source

    def _find_end(self, added: set[int]) -> int:
        """The first added token after an assistant's words, as the template writes them."""
        try:
            text = self._template.render(_PROBE, opens_reply=False)
        except RowError as error:
            raise ModelError(f"{self.name}: {error}") from None
        tail = text.rpartition(_PROBE[-1].content)[2]
        end = next((token for token in self._encode_guarded(tail) if token in added), None)
        if end is None:
            raise ModelError(
                f"{self.name}: no special token ends a reply in the chat template; set eos_token and use it"
            )
        return end

    def _choose_pad(self, configured: str, special: set[int]) -> int:
        pad = self._encoder.token_to_id(configured)
        if pad is not None and pad not in self.stop_ids:
            return pad
        other = special.difference(self.stop_ids)
        return max(other) if other else next(i for i in range(self.vocab_size) if i not in self.stop_ids)

    def _pieces(self, messages: Sequence[Message], opens_reply: bool) -> list[list[int]]:
        """Tokens cut where replies begin: the opening, then from each reply to the beginning of the next."""
        messages = [Message(message.role, self._guard(message.content)) for message in messages]
        text = self._template.render(messages, opens_reply)
        cuts = [0]
        for i, message in enumerate(messages):
            if message.role == "assistant":
                opening = self._template.render(messages[:i], opens_reply=True)
                if not text.startswith(opening):
                    raise RowError("template", "the model's chat template rewrites a prompt once its reply is there")
                cuts.append(len(opening))
        segments = [text[start:end] for start, end in pairwise([*cuts, len(text)])]
        following = [self._continue(before, segment) for before, segment in pairwise(segments)]
        return [self._encode_guarded(segments[0]), *following]

    def _continue(self, before: str, text: str) -> list[int]:
        """Tokens of `text` after `before`: those of the whole text, unless one of them would lie across the
        cut.

        Encoding `text` alone is no general answer: SentencePiece vocabularies put a space in front of every
        text.
        """
        whole, head = self._encode_guarded(before + text), self._encode_guarded(before)
        return whole[len(head) :] if whole[: len(head)] == head else self._encode_guarded(text)

    def _guard(self, text: str) -> str:
        text = text.replace(_GUARD, "").encode("utf-8", "replace").decode("utf-8")
        return self._forged.sub(rf"\1{_GUARD}", text)

    def _encode_guarded(self, text: str) -> list[int]:
        parts = text.split(_GUARD)
        return [token for part in parts for token in self._encoder.encode(part, add_special_tokens=False).ids]


def _build_encoder(spec: dict[str, Any]) -> Encoder:
    for token in spec.get("added_tokens") or ():
        if token["special"]:
            # Matched after normalisation, a special token could be spelled in ways that no guard foresees.
            token["normalized"] = False
    try:
        encoder = Encoder.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing narrower
        raise ModelError(f"tokenizer.json cannot be used: {error}") from None
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _forgery_pattern(specials: Any) -> re.Pattern[str]:
    """Matches the first character of every spelling of a special token, also of those that overlap."""
    names = sorted(specials)
    if any(len(name) < 2 for name in names):
        raise ModelError(f"special tokens of one character cannot be kept out of texts: {names}")
    return re.compile(rf"(?=(?:{'|'.join(map(re.escape, names))}))(.)", re.DOTALL)


def _token_text(key: str, value: Any) -> str:
    """Text of a setting such as eos_token, which is a string or an object with `content`; empty for other
    settings.
    """
    text = value.get("content") if isinstance(value, dict) else value
    return text if key.endswith("_token") and isinstance(text, str) else ""
