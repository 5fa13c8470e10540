"""Conversations from the shapes in which people keep them."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from thumbs.data.shapes import known_shape
from thumbs.data.sources import RowError, read_text
from thumbs.records import Message, Role

Conversation = tuple[Message, ...]

_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
_TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_conversation(value: object) -> Conversation:
    """Messages of one training conversation.

    Accepted: `messages` (role, content), `conversations` (ShareGPT: from, value), `prompt` with `completion`,
    `response` or `chosen` (text or messages), `instruction`/`input`/`output` (Alpaca), and transcripts
    "\\n\\nHuman: …\\n\\nAssistant: …" in `text`, in `chosen` or as the value itself.
    Raises RowError when the shape is none of these, a role is unknown or out of place, a turn is empty, or
    the assistant says nothing.
    """
    messages = _find_messages(value)
    check_turns(messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowError("no_assistant_turn", "there is no assistant turn to learn from")
    return messages


def _find_messages(value: object) -> Conversation:
    if isinstance(value, str):
        return read_transcript(value)
    if not isinstance(value, Mapping):
        raise RowError("not_an_object", f"expected an object, got {type(value).__name__}")
    value = known_shape(value)
    for key in ("messages", "conversations"):
        if value.get(key) is not None:
            return read_messages(value[key], key)
    if value.get("instruction") is not None:
        return join_reply((read_instruction(value),), *_reply_of(value, ("output",)))
    if value.get("prompt") is not None:
        prompt = read_prompt_messages(value["prompt"])
        return join_reply(prompt, *_reply_of(value, ("completion", "response", "chosen")))
    for key in ("text", "chosen"):
        if isinstance(value.get(key), str):
            return read_transcript(value[key])
        if value.get(key) is not None:
            return read_messages(value[key], key)
    keys = reprlib.repr(sorted(map(str, value)))
    raise RowError("missing_field", f"no messages, conversations, prompt, instruction or text; the keys are {keys}")


def _reply_of(value: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[object, str]:
    key = next((key for key in keys if value.get(key) is not None), None)
    if key is None:
        raise RowError("missing_field", f"a prompt without its answer in {' or '.join(map(repr, keys))}")
    return value[key], key


def join_reply(prompt: Conversation, reply: object, field: str) -> Conversation:
    """The conversation of a prompt and its reply, which is text, the following messages, or the whole
    conversation.

    A list that does not begin with the assistant is the whole conversation, and `prompt` is set aside.
    """
    if isinstance(reply, str):
        return (*prompt, Message("assistant", read_text(reply, field)))
    messages = read_messages(reply, field, first="assistant")
    return (*prompt, *messages) if messages[0].role == "assistant" else messages


def read_prompt_messages(value: object) -> Conversation:
    """Messages of a prompt given as text, as a transcript that ends before the reply, or as messages."""
    if not isinstance(value, str):
        return read_messages(value, "prompt")
    text = read_text(value, "prompt")
    if not text.lstrip().startswith("Human:"):
        return (Message("user", text),)
    messages = read_transcript(text)
    opens_reply = messages[-1].role == "assistant" and not messages[-1].content
    return messages[:-1] if opens_reply else messages


def read_instruction(value: Mapping[str, Any]) -> Message:
    """User turn of an Alpaca record: the instruction, and the input after a blank line where there is one."""
    parts = [read_text(value["instruction"], "instruction"), read_text(value.get("input") or "", "input")]
    return Message("user", "\n\n".join(part for part in parts if part.strip()))


def read_messages(value: object, field: str, first: Role = "user") -> Conversation:
    """Messages of a list of role and content (or from and value); absent roles alternate, beginning with
    `first`.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        raise RowError("missing_field", f"{field!r} must be a list of messages with role and content")
    messages: list[Message] = []
    expected = first
    for turn in value:
        if not isinstance(turn, Mapping):
            raise RowError("not_an_object", f"a message in {field!r} must be an object, got {type(turn).__name__}")
        role = _read_role(turn, expected)
        messages.append(Message(role, _read_content(turn)))
        expected = "assistant" if role == "user" else "user"
    return tuple(messages)


def _read_role(turn: Mapping[str, Any], expected: Role) -> Role:
    name = turn.get("role", turn.get("from"))
    if name is None:
        return expected
    role = _ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise RowError("bad_role", f"unknown role {reprlib.repr(name)}; use system, user or assistant")
    return role


def _read_content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content", turn.get("value"))
    if content is None:
        raise RowError("missing_field", "a message without 'content'")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "".join(read_text(part, "content") for part in parts)
    return read_text(content, "content")


def read_transcript(text: str) -> Conversation:
    """Messages of "\\n\\nHuman: …\\n\\nAssistant: …", each turn stripped of the space around it."""
    before, *rest = _TRANSCRIPT_TURN.split(read_text(text, "text").lstrip())
    if before.strip() or not rest:
        raise RowError(
            "missing_field",
            "text is no transcript: it must begin with 'Human:', turns divided by blank lines",
        )
    turns = zip(rest[::2], rest[1::2], strict=True)
    return tuple(Message(_ROLES[name.lower()], content.strip()) for name, content in turns)


def check_turns(messages: Conversation) -> None:
    """Raises RowError for a system message that is not first, an assistant that begins, or an empty turn."""
    turns = [m for m in messages if m.role != "system"]
    if any(message.role == "system" for message in messages[1:]):
        raise RowError("bad_role", "a system message must be the first message, and the only one of its kind")
    if turns and turns[0].role != "user":
        raise RowError("bad_role", "the first turn must be the user's")
    for message in turns:
        if not message.content.strip():
            kind = "empty_reply" if message.role == "assistant" else "empty_prompt"
            raise RowError(kind, f"an empty {message.role} turn")
