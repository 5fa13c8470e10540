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


def split_fault(name: str, train: int, held: int, fraction: float) -> str:
    """What is wrong with a split into so many training and held-out rows, and what to do; empty if nothing is.

    name: the setting whose rows they are, such as "sft.data". A side that is to have rows and has none is a fault.
    """
    why = "the first user turn of a row decides on which side it falls, so rows of one prompt fall together"
    cure = f"Set {name}.holdout=0 to hold out nothing, or another fraction, or give rows of more prompts"
    if held and not train:
        return f"{name}: all {held} rows fall on the held-out side, and none is left to train on; {why}. {cure}"
    if train and not held and fraction > 0:
        return f"{name}: none of {train} rows falls on the held-out side (holdout {fraction:g}); {why}. {cure}"
    return ""
