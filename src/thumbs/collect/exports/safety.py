"""Pairs on two axes, helpfulness and safety, in PKU-SafeRLHF's columns: what a reward and a cost model learn from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thumbs.collect.exports.judged import JudgedItem, Opinion
from thumbs.collect.exports.select import Filters
from thumbs.collect.question import Axis, Question
from thumbs.data.conversations import read_prompt_messages
from thumbs.data.sources import RowError
from thumbs.records import Message

HELPFULNESS = ("helpfulness", "helpful")
"""Keys of the axis that says which reply is more helpful; the first one that the question has counts."""
SAFETY = ("safety", "harmlessness", "harmless")
"""Keys of the axis that says which reply is safer."""
UNSAFE = ("unsafe", "harmful")
"""Flags that say that a reply is not safe."""


def safety_fault(question: Question, filters: Filters) -> str | None:
    """What the question or the filters lack for such pairs; None for nothing."""
    if filters.axis is not None:
        return "is of two axes at once; leave `axis` out"
    if filters.aggregate == "majority":
        return "counts the marks of every judgement, and a majority has none; use aggregate all or first"
    rated = question.kind == "rate"
    if _axis(question, HELPFULNESS) is None and (rated or question.direction != "better"):
        return f"needs an axis of helpfulness; give the question an axis with the key {' or '.join(HELPFULNESS)}"
    if set(UNSAFE) & set(question.flags) or (rated and _axis(question, SAFETY) is not None):
        return None
    axis = f" or an axis with the key {', '.join(SAFETY)}" if rated else ""
    return f"needs to know of each reply whether it is safe; give the question the flag {' or '.join(UNSAFE)}{axis}"


def safety_rows(judged: JudgedItem, filters: Filters) -> Iterator[Mapping[str, Any]]:
    """A row for each pair of replies that people compared for helpfulness and marked as safe or not.

    `is_response_0_safe` is the share of the people asked who find it so: 1 or 0 where they agree. The ids say which
    reply more people prefer, "tie" where as many prefer either. Where nobody compared for safety, the reply that more
    people mark as safe is the safer one.
    """
    for i, j in itertools.combinations(range(len(judged.replies)), 2):
        better = _leans(judged, HELPFULNESS, i, j, "better")
        safe = [_share_safe(judged.opinions, slot) for slot in (i, j)]
        if not better or safe[0] is None or safe[1] is None:
            continue
        safer = _leans(judged, SAFETY, i, j, "more_harmful") or [_sign(safe[1] - safe[0])]
        yield {
            "prompt": _prompt(judged.messages),
            "response_0": judged.replies[i].text,
            "response_1": judged.replies[j].text,
            "is_response_0_safe": safe[0],
            "is_response_1_safe": safe[1],
            "better_response_id": _id(better),
            "safer_response_id": _id(safer),
        }


def _axis(question: Question, keys: Sequence[str]) -> Axis | None:
    axes = {axis.key: axis for axis in question.axes}
    return next((axes[key] for key in keys if key in axes), None)


def _leans(judged: JudgedItem, keys: Sequence[str], i: int, j: int, direction: str) -> list[int]:
    """What each opinion on that axis says: -1 for reply i, 1 for reply j, 0 for neither. Of two replies the verdict
    speaks where the question has no such axis and is of that direction.
    """
    found: list[int | None] = []
    for one in judged.opinions:
        axis = _axis(one.question, keys)
        if axis is not None and one.question.kind == "rate":
            a, b = (one.answer.ratings[slot].get(axis.key) for slot in (i, j))
            found.append(None if a is None or b is None else _sign(b - a))
        elif axis is not None:
            value = one.answer.axes.get(axis.key)
            found.append(None if value is None else _sign(value))
        elif one.question.is_pair and one.question.direction == direction:
            found.append({"first": -1, "second": 1}.get(one.side, 0))
    return [lean for lean in found if lean is not None]


def _share_safe(opinions: Sequence[Opinion], slot: int) -> float | None:
    marks = [mark for one in opinions if (mark := _mark(one, slot)) is not None]
    return sum(marks) / len(marks) if marks else None


def _mark(one: Opinion, slot: int) -> float | None:
    """1 for a reply that is safe, 0 for one that is not; None if nobody asked. By the flag where the question has one,
    else by the half of the scale on the axis of safety, whose middle is 0.5.
    """
    if set(UNSAFE) & set(one.question.flags):
        return float(not (one.answer.flags and set(UNSAFE) & set(one.answer.flags[slot])))
    axis = _axis(one.question, SAFETY)
    value = None if axis is None or one.question.kind != "rate" else one.answer.ratings[slot].get(axis.key)
    return None if axis is None or value is None else (1 + _sign(2 * value - axis.low - axis.high)) / 2


def _id(leans: Sequence[int]) -> int | str:
    total = sum(leans)
    return "tie" if not total else int(total > 0)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _prompt(messages: Sequence[Message]) -> str | list[dict[str, str]]:
    """The text of a prompt of one turn, or its messages where the text alone would be read as something else."""
    try:
        if tuple(read_prompt_messages(messages[0].content)) == tuple(messages):
            return messages[0].content
    except RowError:
        pass
    return [{"role": message.role, "content": message.content} for message in messages]
