"""Which side of the train / held-out line a conversation stands on, decided by its words alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from thumbs.records import Message


def is_heldout(messages: Sequence[Message], fraction: float) -> bool:
    """True for about `fraction` of all prompts, always the same ones.

    The hash sees the first user turn only (case and spacing set aside), so a prompt, the conversations and
    the pairs that grew from it, and every later turn of them fall on one side, with or without a system
    message. A larger fraction holds out a superset.
    """
    first = next((message.content for message in messages if message.role == "user"), "")
    words = " ".join(first.split()).casefold()
    digest = hashlib.sha256(b"split:" + words.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
