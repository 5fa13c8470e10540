"""Single replies with a label, good or bad, from the shapes in which people keep them."""

from __future__ import annotations

from dataclasses import dataclass

from thumbs.data.conversations import conversation_of, with_system
from thumbs.data.formats import recognise
from thumbs.data.messages import Conversation, as_prompt, check_turns, require_trained
from thumbs.data.sources import RowError
from thumbs.data.verdicts import read_label


@dataclass(frozen=True)
class JudgedReply:
    """A conversation whose last turn, the assistant's, is desirable or not."""

    messages: Conversation
    desirable: bool


def read_judged_reply(value: object) -> JudgedReply:
    """Judged reply of one row: a conversation as `read_conversation` takes it, and `label` (or `kto_tag`, or a `score`
    of 0 or 1).

    label: true, 1, "desirable" or "good"; false, 0, -1, "undesirable" or "bad". Raises RowError when there is no label
    or another one, or when the conversation does not end with the assistant.
    """
    shaped = recognise(value, "replies")
    messages = with_system(conversation_of(shaped.row), shaped.system)
    check_turns(messages)
    if messages[-1].role != "assistant":
        raise RowError("no_assistant_turn", "the conversation does not end with an assistant turn to judge")
    require_trained(messages[-1], "messages")
    return JudgedReply((*as_prompt(messages[:-1]), messages[-1]), read_label(shaped.row["label"]))
