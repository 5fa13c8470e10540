"""Prompts: what waits for an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from thumbs.data.conversations import read_instruction, read_prompt_messages
from thumbs.data.messages import Conversation, as_prompt, check_turns, read_messages
from thumbs.data.shapes import known_shape
from thumbs.data.sources import RowError, canonical_json
from thumbs.records import Message, Prompt


def read_prompt(value: object) -> Prompt:
    """Prompt from text, from an object with `prompt` (text or messages) or `instruction`, or from
    `messages` that end with the user; its id is a hash of the messages. An object's `answer` (text or a number) is
    kept. Raises RowError otherwise.
    """
    messages = as_prompt(_find_messages(value))
    check_prompt(messages)
    return Prompt(prompt_id(messages), messages, _find_answer(value))


def _find_answer(value: object) -> str | None:
    answer = value.get("answer") if isinstance(value, Mapping) else None
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, str | int | float)):
        raise RowError("bad_label", f"`answer` is text or a number, got {type(answer).__name__}")
    return None if answer is None else str(answer)


def prompt_id(messages: Sequence[Message]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the messages' canonical JSON: the same in every run."""
    text = canonical_json([[message.role, message.content] for message in messages])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def check_prompt(messages: Conversation) -> None:
    """Raises RowError unless the messages are in order and end with a user turn that says something."""
    check_turns(messages)
    if not messages or messages[-1].role != "user":
        raise RowError("no_user_turn", "a prompt must end with a user turn, which the reply answers")


def _find_messages(value: object) -> Conversation:
    if isinstance(value, str):
        return read_prompt_messages(value)
    if not isinstance(value, Mapping):
        raise RowError("not_an_object", f"expected text or an object, got {type(value).__name__}")
    value = known_shape(value)
    if value.get("prompt") is not None:
        return read_prompt_messages(value["prompt"])
    if value.get("instruction") is not None:
        return (read_instruction(value),)
    if value.get("messages") is not None:
        return read_messages(value["messages"], "messages")
    raise RowError("missing_field", "no 'prompt', 'instruction' or 'messages'")
