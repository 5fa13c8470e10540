"""Prompts: what waits for an answer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from thumbs.data.conversations import read_prompt_messages, split_pair, with_system
from thumbs.data.formats import recognise
from thumbs.data.messages import Conversation, as_prompt, check_turns, read_messages
from thumbs.data.sources import RowError, canonical_json
from thumbs.records import Message, Prompt


def read_prompt(value: object) -> Prompt:
    """Prompt from text, or from an object in any format that has a prompt (docs/data.md), whose replies are set aside;
    its id is a hash of the messages. An object's `answer` (text or a number) is kept. Raises RowError otherwise.
    """
    if isinstance(value, str):
        messages, row = read_prompt_messages(value), {}
    elif isinstance(value, Mapping):
        shaped = recognise(value, "prompts")
        row, messages = shaped.row, with_system(_find_messages(shaped.row), shaped.system)
    else:
        raise RowError("not_an_object", f"expected text or an object, got {type(value).__name__}")
    messages = as_prompt(messages)
    check_prompt(messages)
    plain = value if isinstance(value, str) else value.get("prompt") or value.get("instruction")
    return Prompt(
        prompt_id(messages), messages, _find_answer(row), as_text=isinstance(plain, str) and len(messages) == 1
    )


def _find_answer(row: Mapping[str, Any]) -> str | None:
    answer = row.get("answer")
    if answer is not None and (isinstance(answer, bool) or not isinstance(answer, str | int | float)):
        raise RowError("bad_label", f"`answer` is text or a number, got {type(answer).__name__}")
    return None if answer is None else str(answer)


def prompt_id(messages: Sequence[Message]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the messages' canonical JSON: the same in every run."""
    text = canonical_json([[message.role, message.content] for message in messages])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def content_id(prompt: Sequence[Message], texts: Iterable[str]) -> str:
    """The same of a prompt and replies to it."""
    text = canonical_json([[[message.role, message.content] for message in prompt], *texts])
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def check_prompt(messages: Conversation) -> None:
    """Raises RowError unless the messages are in order and end with a user turn that says something."""
    check_turns(messages)
    if not messages or messages[-1].role != "user":
        raise RowError("no_user_turn", "a prompt must end with a user turn, which the reply answers")


def _find_messages(row: Mapping[str, Any]) -> Conversation:
    if "prompt" in row:
        return read_prompt_messages(row["prompt"])
    if "messages" in row:
        return read_messages(row["messages"], "messages")
    if "chosen" in row and "rejected" in row:
        return split_pair(row)[0]
    raise RowError("missing_field", "a transcript or conversation is not a prompt; give 'prompt' or 'messages'")
