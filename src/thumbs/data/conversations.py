"""Conversations from the shapes in which people keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from thumbs.data.formats import recognise
from thumbs.data.messages import ROLES, Conversation, as_prompt, check_turns, read_messages, require_trained
from thumbs.data.reading import remark
from thumbs.data.sources import RowError, read_text
from thumbs.data.verdicts import favoured, read_label, read_verdicts
from thumbs.records import Message

_TRANSCRIPT_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def read_conversation(value: object) -> Conversation:
    """Messages of one training conversation.

    Accepted: text that is a transcript "\\n\\nHuman: …\\n\\nAssistant: …", and an object in any format of conversations
    (docs/data.md). Of a pair, the reply that won is imitated; of a labelled reply, a good one. Raises RowError when the
    shape is none of these, no reply won, the reply is bad, a role is unknown or out of place, a turn is empty, or the
    assistant says nothing, or nothing that it says is to be learned.
    """
    messages = read_transcript(value) if isinstance(value, str) else _find_messages(value)
    check_turns(messages)
    if not any(message.role == "assistant" for message in messages):
        raise RowError("no_assistant_turn", "there is no assistant turn to learn from")
    if not any(message.role == "assistant" and message.trained for message in messages):
        raise RowError("empty_mask", "every assistant turn has weight 0 (or train: false)")
    return messages


def _find_messages(value: object) -> Conversation:
    shaped = recognise(value, "conversations")
    if shaped.kind == "preferences":
        return with_system(_winner(shaped.row), shaped.system)
    if shaped.kind == "replies" and not read_label(shaped.row["label"]):
        raise RowError("bad_label", "the row says that its reply is bad; supervised fine-tuning would imitate it")
    return with_system(conversation_of(shaped.row), shaped.system)


def conversation_of(row: Mapping[str, Any]) -> Conversation:
    """Messages of a row of `messages`, of `text` (a transcript), or of `prompt` and `completion`."""
    if "messages" in row:
        return read_messages(row["messages"], "messages")
    if "text" in row:
        return read_transcript(row["text"])
    messages = join_reply(read_prompt_messages(row["prompt"]), row["completion"], "completion")
    if not isinstance(row["completion"], str):
        return messages
    (reply,) = _without_prompt(messages[:-1], (messages[-1].content,))
    return (*messages[:-1], Message("assistant", reply))


def _winner(row: Mapping[str, Any]) -> Conversation:
    """The prompt of a pair with the reply that won."""
    better = favoured(read_verdicts(row, "file"))
    if better is None or better == 0.5:
        raise RowError("bad_label", "neither reply of the pair won, so there is none to imitate")
    prompt, replies = split_pair(row)
    return (*prompt, Message("assistant", replies[0 if better > 0.5 else 1]))


def with_system(messages: Conversation, system: str | None) -> Conversation:
    """The messages with the system message of the row; raises RowError if they begin with another one."""
    if system is None:
        return messages
    if messages[0].role == "system" and messages[0].content != system:
        raise RowError(
            "bad_role", "the row has a system message of its own in addition to its messages, which have another one"
        )
    return messages if messages[0].role == "system" else (Message("system", system), *messages)


def split_pair(row: Mapping[str, Any]) -> tuple[Conversation, tuple[str, str]]:
    """The shared prompt and the two last assistant turns of a row of chosen and rejected, or of two `replies`."""
    if "replies" in row:
        texts = [
            read_text(reply["text"] if isinstance(reply, Mapping) else reply, "replies") for reply in row["replies"]
        ]
        return as_prompt(read_prompt_messages(row["prompt"])), (texts[0], texts[1])
    given = read_prompt_messages(row["prompt"]) if "prompt" in row else None
    pair = [_whole(given, row[key], key) for key in ("chosen", "rejected")]
    for key, messages in zip(("chosen", "rejected"), pair, strict=True):
        if messages[-1].role != "assistant":
            raise RowError("no_assistant_turn", f"{key!r} does not end with an assistant turn")
        require_trained(messages[-1], key)
    prompt = as_prompt(pair[0][:-1])
    if prompt != as_prompt(pair[1][:-1]):
        raise RowError("different_prompts", "'chosen' and 'rejected' part before their last assistant turn")
    first, second = _without_prompt(prompt, (pair[0][-1].content, pair[1][-1].content))
    return prompt, (first, second)


def _whole(prompt: Conversation | None, reply: object, field: str) -> Conversation:
    if prompt is not None:
        return join_reply(prompt, reply, field)
    return read_transcript(reply) if isinstance(reply, str) else read_messages(reply, field)


def join_reply(prompt: Conversation, reply: object, field: str) -> Conversation:
    """The conversation of a prompt and its reply, which is text, the following messages, or the whole conversation.

    A transcript, and a list that does not begin with the assistant, is the whole conversation; raises RowError if the
    prompt is not in it.
    """
    if isinstance(reply, str):
        text = read_text(reply, field)
        if not text.lstrip().startswith("Human:"):
            return (*prompt, Message("assistant", text))
        messages = read_transcript(text)
    else:
        reply = [reply] if isinstance(reply, Mapping) else reply
        messages = read_messages(reply, field, first="assistant")
        if messages[0].role == "assistant":
            return (*prompt, *messages)
    asked, before = _said(prompt), _said(messages[:-1])
    if asked != before[: len(asked)] and asked != before[-len(asked) :]:
        raise RowError(
            "different_prompts", f"{field!r} is a whole conversation, and the prompt of the row is not in it"
        )
    has_system = messages[0].role == "system" or prompt[0].role != "system"
    return messages if has_system else (prompt[0], *messages)


def _said(messages: Conversation) -> list[tuple[str, str]]:
    return [(message.role, message.content.strip()) for message in messages if message.role != "system"]


def _without_prompt(prompt: Conversation, replies: tuple[str, ...]) -> tuple[str, ...]:
    """The replies without their prompt, if all begin with its last turn and a line break; two with four words of it.

    A reply may begin with the words of its prompt by chance, so what does so otherwise stays, with a remark.
    """
    asked = prompt[-1].content.strip() if prompt else ""
    rests = [reply.lstrip()[len(asked) :] for reply in replies if asked and reply.lstrip().startswith(asked)]
    if len(rests) < len(replies) or not all(rest.strip() for rest in rests):
        head = [reply[: len(asked) + 40] for reply in replies]
        if len(asked) >= 12 and any(asked in text for text in head):
            remark("repeated_prompt", "a reply begins with its prompt")
        return replies
    apart = all(rest.startswith(("\n", "\r")) for rest in rests)
    if apart or (len(replies) > 1 and len(asked.split()) >= 4 and not any(rest[0].isalnum() for rest in rests)):
        remark("repeated_prompt", "the prompt is repeated at the beginning of the reply, and was taken off there")
        return tuple(rest.strip() for rest in rests)
    remark("repeated_prompt", "a reply begins with its prompt")
    return replies


def read_prompt_messages(value: object) -> Conversation:
    """Messages of a prompt given as text, as a transcript that ends before the reply, or as messages."""
    if not isinstance(value, str):
        return read_messages([value] if isinstance(value, Mapping) else value, "prompt")
    text = read_text(value, "prompt")
    if not text.lstrip().startswith("Human:"):
        return (Message("user", text),)
    messages = read_transcript(text)
    opens_reply = messages[-1].role == "assistant" and not messages[-1].content
    return messages[:-1] if opens_reply else messages


def read_transcript(text: str) -> Conversation:
    """Messages of "\\n\\nHuman: …\\n\\nAssistant: …", each turn stripped of the space around it."""
    before, *rest = _TRANSCRIPT_TURN.split(read_text(text, "text").lstrip())
    if before.strip() or not rest:
        raise RowError(
            "missing_field",
            "text is not a transcript: it must begin with 'Human:', turns divided by blank lines",
        )
    turns = zip(rest[::2], rest[1::2], strict=True)
    return tuple(Message(ROLES[name.lower()], content.strip()) for name, content in turns)
