"""Conversations from the shapes in which people keep them."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

from thumbs.data.messages import ROLES, Conversation, check_turns, read_messages
from thumbs.data.shapes import known_shape
from thumbs.data.sources import RowError, read_text
from thumbs.records import Message

_TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_conversation(value: object) -> Conversation:
    """Messages of one training conversation.

    Accepted: `messages` (role, content), `conversations` (ShareGPT: from, value), `prompt` with `completion`,
    `response` or `chosen` (text or messages), `instruction`/`input`/`output` (Alpaca), and transcripts
    "\\n\\nHuman: …\\n\\nAssistant: …" in `text`, in `chosen` or as the value itself.
    Raises RowError when the shape is none of these, a role is unknown or out of place, a turn is empty, the
    assistant says nothing, or nothing that it says is to be learned.
    """
    messages = _find_messages(value)
    check_turns(messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowError("no_assistant_turn", "there is no assistant turn to learn from")
    if not any(message.role == "assistant" and message.trained for message in messages):
        raise RowError("empty_mask", "every assistant turn has weight 0 (or train: false)")
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


def read_transcript(text: str) -> Conversation:
    """Messages of "\\n\\nHuman: …\\n\\nAssistant: …", each turn stripped of the space around it."""
    before, *rest = _TRANSCRIPT_TURN.split(read_text(text, "text").lstrip())
    if before.strip() or not rest:
        raise RowError(
            "missing_field",
            "text is no transcript: it must begin with 'Human:', turns divided by blank lines",
        )
    turns = zip(rest[::2], rest[1::2], strict=True)
    return tuple(Message(ROLES[name.lower()], content.strip()) for name, content in turns)
