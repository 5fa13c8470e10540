"""Single replies with a label, good or bad, from the shapes in which people keep them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass

from thumbs.data.conversations import read_conversation
from thumbs.data.messages import Conversation, as_prompt, require_trained
from thumbs.data.sources import RowError

_LABELS = {1: True, "desirable": True, "good": True, 0: False, -1: False, "undesirable": False, "bad": False}


@dataclass(frozen=True)
class JudgedReply:
    """A conversation whose last turn, the assistant's, is desirable or not."""

    messages: Conversation
    desirable: bool


def read_judged_reply(value: object) -> JudgedReply:
    """Judged reply of one row: a conversation as `read_conversation` takes it, and `label`.

    label: true, 1, "desirable" or "good"; false, 0, -1, "undesirable" or "bad". Raises RowError when there is no label
    or another one, or when the conversation does not end with the assistant.
    """
    messages = read_conversation(value)
    if messages[-1].role != "assistant":
        raise RowError("no_assistant_turn", "the conversation does not end with an assistant turn to judge")
    label = value.get("label") if isinstance(value, Mapping) else None
    if label is None:
        raise RowError("missing_field", "no 'label' that says whether the reply is desirable")
    if not isinstance(label, str | int | float) or label not in _LABELS:
        raise RowError("bad_label", f"label {reprlib.repr(label)}; use true or false, 1 or 0, desirable or undesirable")
    require_trained(messages[-1], "messages")
    return JudgedReply((*as_prompt(messages[:-1]), messages[-1]), _LABELS[label])
