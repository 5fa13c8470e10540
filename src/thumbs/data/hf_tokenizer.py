"""The tokenizer of a Hugging Face model folder, with its chat template and the mask of who wrote what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from thumbs.config.model import TemplateConfig
from thumbs.data import template_probe
from thumbs.data.chat_template import ROLE_COLON, ChatTemplate
from thumbs.data.marks import build_encoder, encode, forgery_pattern, guarded, written_marks
from thumbs.data.messages import mask_of
from thumbs.data.sources import RowError
from thumbs.data.token_bytes import byte_reader
from thumbs.errors import ConfigError, ModelError
from thumbs.records import Message
from thumbs.tracking.files import write_text

_GENERATION = "generation_config.json"
_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", _GENERATION)


class _Reply(NamedTuple):
    """An assistant's turn as the template writes it when it is the last: what stands before it, and its text with the
    mark that ends it.
    """

    opening: str
    text: str


class HfTokenizer:
    """Tokenizer of a folder with tokenizer.json and tokenizer_config.json.

    * Text that users or models write never becomes a mark, special or not: wherever it spells one, it is cut after
      the first character before encoding. All other text gets exactly the tokens of `transformers`. Added tokens that
      stand within replies only, such as <think>, are marks in the texts of users, and words in those of the assistant.
    * What the chat template can do is found once, by rendering a few conversations (`traits`); one that loses the words
      of a turn is refused.
    * eos_id is the token with which the chat template ends a reply; stop_ids adds the configured eos_token
      and the end tokens of generation_config.json, or of config.json if there is no such file, as `transformers` does.
    * pad_id is the configured pad_token unless that is a stop token; then it is the last special token that
      is none, or without such a token the lowest other id (padding is masked, so its meaning does not
      matter).
    * A folder without a chat template gets "User:\\n…\\n\\nAssistant:\\n…" with eos_token after each reply.
      In such plain text a message can imitate a turn of the other side; a template with special tokens is
      proof against that.
    """

    def __init__(self, folder: str | Path, template: TemplateConfig | None = None) -> None:
        """Reads the folder; raises ModelError when a file is missing or broken, no token ends a reply, or the chat
        template loses words, and ConfigError for a variable that the template never reads.
        """
        folder, self._config = Path(folder), template or TemplateConfig()
        self.name = folder.name
        try:
            self._files = {
                name: (folder / name).read_text(encoding="utf-8") for name in _FILES if (folder / name).is_file()
            }
            if "tokenizer.json" not in self._files:
                raise ModelError("no tokenizer.json; give the folder of a model with a fast tokenizer")
            config = {**self._read("special_tokens_map.json"), **self._read("tokenizer_config.json")}
            self._encoder = build_encoder(self._read("tokenizer.json"))
            names = {key: text for key, value in config.items() if (text := _token_text(key, value))}
            self._template = ChatTemplate(self._template_source(config), names, self._config)
            self._open_template(names, _generation_ends(folder))
        except ConfigError:
            raise
        except (ValueError, TypeError, LookupError, OSError) as error:
            raise ModelError(f"{folder}: {error}") from None

    def _open_template(self, names: Mapping[str, str], generation_ends: Sequence[int]) -> None:
        """Finds out what the template does, which tokens end a reply, and which may not be forged."""
        tail, header = template_probe.settle(self._template)
        added = self._encoder.get_added_tokens_decoder()
        self.vocab_size = max(self._encoder.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id = self._find_end(tail, {i for i, token in added.items() if token.content.strip()})
        eos = self._encoder.token_to_id(names.get("eos_token", ""))
        self._named = {self._encoder.token_to_id(names.get(f"{kind}_token", "")) for kind in ("bos", "eos", "unk")}
        self._named.add(self.eos_id)
        self._closing = tuple(dict.fromkeys(i for i in (self.eos_id, eos) if i is not None))
        # A token of generation_config.json may be a word of the vocabulary: it ends what is sampled, not what is read.
        self.stop_ids = tuple(dict.fromkeys((*self._closing, *generation_ends)))
        special = {number for number, token in added.items() if token.special}
        self.marks: Mapping[str, int] = {added[i].content: i for i in sorted(special)}
        self.pad_id = self._choose_pad(names.get("pad_token", ""), special)
        self._ends = [added[i].content for i in self._closing if i in added]
        self.traits = template_probe.probe(self._template, header, self._ends, names.get("bos_token", ""))
        around = template_probe.around_words(self._template), tail
        outer = written_marks(self._encoder, "", around)
        every = written_marks(self._encoder, self._template.literals, (*around, self.traits.opening)) | outer
        fixed = {token.content for i, token in added.items() if i in special or token.content in names.values()}
        fixed |= {added[i].content for i in self.stop_ids if i in added}
        self._forged_reply, self._forged = forgery_pattern(fixed | outer), forgery_pattern(fixed | every)
        if any(token.normalized and token.content in every for token in added.values()):
            self._encoder = build_encoder(self._read("tokenizer.json"), every)
        self._bytes_of = byte_reader(self._read("tokenizer.json").get("decoder"))
        self._hidden = {i for i, token in self._encoder.get_added_tokens_decoder().items() if token.special}

    def notes(self) -> list[str]:
        """What a user should know of the chat template before training, one sentence each."""
        return self.traits.notes(self._template, self._config.date.isoformat())

    def encode(self, text: str) -> list[int]:
        """Tokens of plain text, without BOS or EOS; text that spells a mark of turns stays text."""
        return encode(self._encoder, guarded(text, self._forged_reply))

    def decode(self, tokens: Sequence[int], skip_special: bool = True) -> str:
        """Text of the tokens; ids outside the vocabulary are left out."""
        known = [int(token) for token in tokens if 0 <= token < self.vocab_size]
        return self._encoder.decode(known, skip_special_tokens=skip_special)

    def token_bytes(self, token: int, first: bool = False) -> bytes:
        """What a token adds to a text; nothing for special tokens and ids outside the vocabulary."""
        known = 0 <= token < self.vocab_size and token not in self._hidden
        spelling = self._encoder.id_to_token(token) if known else None
        if spelling is None:
            return b""
        if self._bytes_of is not None:
            return self._bytes_of(spelling, first)
        if first:
            return self.decode([token]).encode("utf-8", "replace")
        before = self._encoder.decode([self._anchor])  # neighbours decide, such as whether a space is between
        return self._encoder.decode([self._anchor, token]).removeprefix(before).encode("utf-8", "replace")

    def tokens_beyond(self, rows: int) -> tuple[list[str], list[str]]:
        """Tokens with a number of `rows` or more: those that texts or the template can give, and those that neither
        gives (special tokens that no turn is written with, a padding token).
        """
        added = self._encoder.get_added_tokens_decoder()
        beyond = {i: text for text, i in self._encoder.get_vocab(with_added_tokens=True).items() if i >= rows}
        given = {
            i
            for i, text in beyond.items()
            if i not in added or not added[i].special or text in self._template.literals or i in self._named
        }
        return [beyond[i] for i in sorted(given)], [beyond[i] for i in sorted(beyond.keys() - given)]

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Tokens of the messages up to where the assistant's next reply begins.

        Raises RowError (a DataError) when the template refuses the messages or leaves one out.
        """
        messages = self._guarded(messages)
        text = self._opening(messages)
        _check_words(messages, text)
        return [token for piece in self._pieces(text, self._replies(messages, text)) for token in piece]

    def render_turns(self, messages: Sequence[Message]) -> tuple[list[int], dict[int, tuple[int, int]]]:
        """Tokens of a conversation, and first and last + 1 of the tokens that are each assistant turn's own, by the
        number of its message: its content and the token that ends it.

        A turn that the template writes in another way than it did when it was the last (without its reasoning, say) has
        no tokens of its own here. Tokens of render_prompt(messages[:-1]) are a prefix of these. Raises RowError (a
        DataError) when the template refuses the messages, leaves one out, writes what stands before the last reply in
        another way once it is there, or does not end it.
        """
        messages = self._guarded(messages)
        text = self._template.render(messages, opens_reply=False)
        replies = self._replies(messages, text, strict=True)
        _check_words(messages, text)
        opening, *pieces = self._pieces(text, replies)
        tokens, spans = list(opening), {}
        for number, piece in zip(replies, pieces, strict=True):
            end = next((i for i, token in enumerate(piece, start=1) if token in self._closing), None)
            if end is None:
                raise RowError("template", "the model's chat template does not end an assistant turn with a stop token")
            spans[number] = len(tokens), len(tokens) + end
            tokens += piece
        return tokens, spans

    def render(self, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
        """Tokens of a conversation, and for each 1 where it is a trained assistant turn's own, else 0.

        Raises RowError as render_turns.
        """
        tokens, spans = self.render_turns(messages)
        return tokens, mask_of(messages, len(tokens), spans)

    def save(self, folder: str | Path) -> None:
        """Writes the files that were read into `folder`, each at once or not at all."""
        for name, text in self._files.items():
            write_text(Path(folder) / name, text)

    @cached_property
    def _anchor(self) -> int:
        """A token whose text stands by itself."""
        return next((i for i in range(self.vocab_size) if self.decode([i]).isalnum()), self.vocab_size - 1)

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
            source = {item["name"]: item["template"] for item in source}
        if isinstance(source, dict):
            if "default" not in source:
                raise ModelError(f"chat_template holds {', '.join(source)}; one of them must be named default")
            source = source["default"]
        if not isinstance(source, str):
            raise ModelError(f"chat_template must be text, got {type(source).__name__}")
        return source

    def _find_end(self, tail: str, added: set[int]) -> int:
        """The first added token after an assistant's words, as the template writes them."""
        end = next((token for token in encode(self._encoder, tail) if token in added), None)
        if end is None:
            raise ModelError("no special token ends a reply in the chat template; set eos_token and use it")
        return end

    def _choose_pad(self, configured: str, special: set[int]) -> int:
        pad = self._encoder.token_to_id(configured)
        if pad is not None and pad not in self.stop_ids:
            return pad
        other = special.difference(self.stop_ids)
        return max(other) if other else next(i for i in range(self.vocab_size) if i not in self.stop_ids)

    def _guarded(self, messages: Sequence[Message]) -> list[Message]:
        forged = {"assistant": self._forged_reply}
        return [replace(m, content=guarded(m.content, forged.get(m.role, self._forged))) for m in messages]

    def _opening(self, messages: Sequence[Message]) -> str:
        return self._template.render(messages, opens_reply=True) + self.traits.header

    def _replies(self, messages: Sequence[Message], text: str, *, strict: bool = False) -> dict[int, _Reply]:
        """The assistant's turns that stand in `text` as they do when they are the last, by number.

        strict: raises RowError if the last message is the assistant's and the template has no place for it.
        """
        kept: dict[int, _Reply] = {}
        for number, message in enumerate(messages):
            if message.role != "assistant":
                continue
            try:
                reply = self._reply(messages[: number + 1])
            except RowError:
                if strict and number == len(messages) - 1:
                    raise
                continue  # it is not learned from here, and says what is wrong when it is the last
            if text.startswith(reply.opening + reply.text):
                kept[number] = reply
        return kept

    def _reply(self, messages: Sequence[Message]) -> _Reply:
        """The last of the messages; raises RowError if the template does not let it follow its own opening."""
        whole = self._template.render(messages, opens_reply=False)
        if any(message.role == "user" for message in messages):
            opening = self._opening(messages[:-1])
        else:
            opening = self._first_opening(messages, whole)
        if not whole.startswith(opening):
            raise RowError("template", self.traits.untrainable or _REWRITES)
        text = whole[len(opening) :]
        end = template_probe.end_of(text, self._ends)
        if end is None:
            raise RowError("template", "the model's chat template does not end an assistant turn with a stop token")
        _check_words(messages[-1:], text[:end])
        return _Reply(opening, text[:end])

    def _first_opening(self, messages: Sequence[Message], whole: str) -> str:
        """What stands before a reply that no question precedes: templates open none without a message."""
        system = messages[0].content.strip() if messages[0].role == "system" else ""
        place = whole.find(self.traits.opening, max(whole.find(system), 0) + len(system))
        if not self.traits.opening or place < 0:
            raise RowError("template", "the model's chat template does not let the assistant open a conversation")
        return whole[: place + len(self.traits.opening)]

    def _pieces(self, text: str, replies: Mapping[int, _Reply]) -> list[list[int]]:
        """Tokens cut where replies begin: the opening, then from each reply to the beginning of the next."""
        cuts = [0, *(len(reply.opening) for reply in replies.values()), len(text)]
        segments = [text[start:end] for start, end in pairwise(cuts)]
        following = [self._continue(before, segment) for before, segment in pairwise(segments)]
        return [encode(self._encoder, segments[0]), *following]

    def _continue(self, before: str, text: str) -> list[int]:
        """Tokens of `text` after `before`: those of the whole text, unless one of them would lie across the
        cut.

        Encoding `text` alone is not a general answer: SentencePiece vocabularies put a space in front of every
        text.
        """
        whole, head = encode(self._encoder, before + text), encode(self._encoder, before)
        return whole[len(head) :] if whole[: len(head)] == head else encode(self._encoder, text)


_REWRITES = (
    "the model's chat template rewrites a prompt once its reply is there, so the reply would be trained at another "
    "place than it is sampled at; change the template so that it only appends"
)


def _check_words(messages: Sequence[Message], text: str) -> None:
    """Raises RowError if the text lacks the words of a message; white space may differ, and earlier turns of the
    assistant may be shortened.
    """
    plain = "".join(text.split())
    last = len(messages) - 1
    for number, message in enumerate(messages):
        if (message.role != "assistant" or number == last) and "".join(message.content.split()) not in plain:
            whose = f"a turn of the {message.role}"
            raise RowError(
                "template",
                f"the model's chat template leaves out or rewrites the words of {whose}; take what it drops "
                "(reasoning, say) out of the row, or change the template",
            )


def _generation_ends(folder: Path) -> tuple[int, ...]:
    """The tokens after which the model's own settings end a reply; raises ModelError if they are not tokens."""
    file = next((folder / name for name in (_GENERATION, "config.json") if (folder / name).is_file()), None)
    if file is None:
        return ()
    settings = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ModelError(f"{file.name} must hold an object")
    ends = settings.get("eos_token_id")
    ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if not all(isinstance(end, int) and not isinstance(end, bool) for end in ends):
        raise ModelError(f"{file.name}: eos_token_id must be a token's number or a list of them, got {ends}")
    return tuple(end for end in ends if end >= 0)  # -1 stands for no token


def _token_text(key: str, value: Any) -> str:
    """Text of a setting such as eos_token, which is a string or an object with `content`; empty for other
    settings.
    """
    text = value.get("content") if isinstance(value, dict) else value
    return text if key.endswith("_token") and isinstance(text, str) else ""
