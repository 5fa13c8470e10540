"""One message of a conversation: its role, its words, whether it is learned from, and what else stands in it.

Every key is read, refused by name, or said to be ignored (reading.ignore). A key whose value is null or empty is
absent: Parquet fills the gaps of its structs with null, and the OpenAI client with empty lists.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from thumbs.data.reading import ignore
from thumbs.data.sources import RowError, read_text
from thumbs.records import Message, Role

Conversation = tuple[Message, ...]

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
}
"""Names of roles, in small letters, and what they are here."""

_ROLE_KEYS = ("role", "from")
_CONTENT_KEYS = ("content", "value")
_SWITCHES = ("train", "training", "trainable", "loss")
"""Whether a turn is learned from: axolotl's names, the Tinker cookbook's, ms-swift's."""
_READ = frozenset({*_ROLE_KEYS, *_CONTENT_KEYS, *_SWITCHES, "weight"})

_REASONING = "write the reasoning into 'content' as the model's chat template writes it, or take the key away"
_CALLS = (
    "calls of tools are not trained on; leave the row out, or write the call into 'content' as the model would say it"
)
_MEDIA = "only text is trained on; leave the row out"
_PARTIAL = "a turn counts whole or not at all: use 'weight': 0 or 1"
REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("reasoning_content", "reasoning", "reasoning_details", "thinking", "thought"), _REASONING),
    **dict.fromkeys(("tool_calls", "tool_call", "function_call", "tool_call_id", "tool_responses"), _CALLS),
    **dict.fromkeys(("tools", "functions"), "definitions of tools are not rendered; write them into a system message"),
    **dict.fromkeys(
        ("image", "images", "image_url", "audio", "audios", "input_audio", "video", "videos", "file", "files"), _MEDIA
    ),
    **dict.fromkeys(("train_detail", "loss_mask", "loss_scale", "loss_weight", "mask"), _PARTIAL),
    "refusal": "write the refusal into 'content' if it is to be learned, or leave the row out",
    "prefix": "a reply that is begun cannot be told from a whole one; leave the row out",
}
"""Keys that change what a message says or how it counts, which are not supported, and what to do instead."""

_PART_READ = frozenset({"type", "text"})
_PART_TYPES = (None, "text", "input_text", "output_text")


def read_messages(value: object, field: str, first: Role = "user") -> Conversation:
    """Messages of a list of role and content (or from and value); absent roles alternate, beginning with
    `first`.

    Raises RowError for an empty list, an unknown role, and what REFUSED names.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise RowError("missing_field", f"{field!r} must be a list of messages with role and content")
    messages: list[Message] = []
    expected = first
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError("not_an_object", f"a message in {field!r} must be an object, got {type(turn).__name__}")
        role = _read_role(_one_of(turn, _ROLE_KEYS), expected)
        messages.append(_read_message(turn, role, field))
        expected = "assistant" if role == "user" else "user"
    return tuple(messages)


def check_turns(messages: Conversation) -> None:
    """Raises RowError for a system message that is not first, for an empty turn, or if the user says nothing."""
    if any(message.role == "system" for message in messages[1:]):
        raise RowError("bad_role", "a system message must be the first message, and the only one of its kind")
    turns = [message for message in messages if message.role != "system"]
    for message in turns:
        if not message.content.strip():
            kind = "empty_reply" if message.role == "assistant" else "empty_prompt"
            raise RowError(kind, f"an empty {message.role} turn")
    if turns and all(message.role == "assistant" for message in turns):
        raise RowError("no_user_turn", "there is no user turn that the assistant answers")


def as_prompt(messages: Sequence[Message]) -> Conversation:
    """The messages as what stands before a reply: nothing in them is learned from, whatever they say of it."""
    return tuple(message if message.trained else replace(message, trained=True) for message in messages)


def require_trained(message: Message, field: str) -> Message:
    """The message of a reply that is to be judged; raises RowError if it says that it is not to be learned from."""
    if not message.trained:
        raise RowError("bad_label", f"the reply in {field!r} has weight 0 (or train: false); leave the row out instead")
    return message


def mask_of(messages: Sequence[Message], count: int, spans: Mapping[int, tuple[int, int]]) -> list[int]:
    """For each of `count` tokens 1 where it belongs to a turn that is trained, else 0.

    spans: first and last + 1 of the tokens that are a turn's own, by the number of its message.
    """
    mask = [0] * count
    for number, (start, end) in spans.items():
        if messages[number].trained:
            mask[start:end] = [1] * (end - start)
    return mask


def _read_message(turn: Mapping[str, Any], role: Role, field: str) -> Message:
    _check_keys(turn, _READ, f"{field}[]")
    content = _one_of(turn, _CONTENT_KEYS)
    if content is None:
        raise RowError(
            "missing_field", f"a message without 'content'; its keys are {reprlib.repr(sorted(map(str, turn)))}"
        )
    return Message(role, _read_content(content, f"{field}[].content[]"), _read_trained(turn, role))


def _check_keys(value: Mapping[str, Any], known: frozenset[str], path: str) -> None:
    """Refuses what changes the meaning of a message or a part of one, and names what nothing reads."""
    for key, item in value.items():
        if key in known or _is_absent(item):
            continue
        if key in REFUSED:
            raise RowError("unsupported", f"a message has {key!r}: {REFUSED[key]}")
        ignore(f"{path}.{key}")


def _one_of(turn: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    """The value under whichever of the keys is given; raises RowError if two of them say different things."""
    given = [turn[key] for key in keys if turn.get(key) is not None]
    if len(given) > 1 and given[0] != given[1] and _plain_role(given[0]) != _plain_role(given[1]):
        names = " and ".join(map(repr, keys))
        raise RowError("bad_role", f"a message has {names}, and they differ: {', '.join(map(reprlib.repr, given))}")
    return given[0] if given else None


def _plain_role(name: object) -> object:
    return ROLES.get(name.strip().lower(), name) if isinstance(name, str) else name


def _read_role(name: object, expected: Role) -> Role:
    if name is None:
        return expected
    role = ROLES.get(name.strip().lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError("bad_role", f"unknown role {reprlib.repr(name)}; use one of {', '.join(ROLES)}")
    return role


def _read_trained(turn: Mapping[str, Any], role: Role) -> bool:
    """False if a turn of the assistant is to be seen and not learned from."""
    said: dict[str, bool] = {}
    if (weight := turn.get("weight")) is not None:
        if isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
            raise RowError("bad_label", f"a message has weight {reprlib.repr(weight)}; {_PARTIAL}")
        said["weight"] = weight == 1
    for key in _SWITCHES:
        if (switch := turn.get(key)) is not None:
            if not isinstance(switch, bool):
                raise RowError("bad_label", f"a message has {key!r}: {reprlib.repr(switch)}; use true or false")
            said[key] = switch
    if len(set(said.values())) > 1:
        raise RowError("bad_label", f"a message is to be learned from and not to be: {said}")
    if role != "assistant":
        if any(said.values()):
            raise RowError("bad_label", f"a {role} message has {said}; only the assistant's turns are learned from")
        return True
    return all(said.values())


def _read_content(content: object, path: str) -> str:
    if not isinstance(content, list):
        return read_text(content, "content")
    return "".join(_read_part(part, path) for part in content)


def _read_part(part: object, path: str) -> str:
    if not isinstance(part, Mapping):
        return read_text(part, "content")
    kind = part.get("type")
    if kind not in _PART_TYPES:
        raise RowError("unsupported", f"a message holds a part of type {reprlib.repr(kind)}; {_MEDIA}")
    _check_keys(part, _PART_READ, path)
    if part.get("text") is None:
        raise RowError("missing_field", f"a part of a message without 'text'; its keys are {sorted(map(str, part))}")
    return read_text(part["text"], "content")


def _is_absent(value: object) -> bool:
    return value is None or value is False or (isinstance(value, str | Sequence | Mapping) and not value)
