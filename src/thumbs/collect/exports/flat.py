"""Judgements one by one, with everything that is known of them: as JSON, and as a table for spreadsheets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from thumbs.collect.exports.judged import Judged, Opinion
from thumbs.collect.exports.select import Filters

Row = Mapping[str, Any]
_NUMBERS = ("judgement", "item", "question", "guideline", "strength", "active_ms", "wall_ms")


def vote_rows(judged: Judged, filters: Filters) -> Iterator[Row]:
    """A row a judgement; `given` is the answer as it was given, before its sign was turned or an axis was chosen."""
    for one in judged.opinions:
        yield {
            **_stamps(judged, one),
            "answer": asdict(one.answer),
            "given": asdict(one.vote.as_given),
            "display": list(one.vote.display),
            "conversation": judged.conversation,
            "name": judged.name,
            "chosen_by": judged.chosen_by,
            "prompt": [asdict(message) for message in judged.messages],
            "replies": [asdict(reply) for reply in judged.replies],
        }


def table_rows(judged: Judged, filters: Filters) -> Iterator[Row]:
    """The same for a table: what is no single value as JSON text, a column a reply."""
    for one in judged.opinions:
        answer = one.answer
        row: dict[str, Any] = {
            **_stamps(judged, one),
            "verdict": answer.verdict,
            "strength": answer.strength,
            "axes": _json(answer.axes),
            "ranks": _json(answer.ranks),
            "ratings": _json(answer.ratings),
            "flags": _json(answer.flags),
            "text": answer.text,
            "reason": answer.reason,
            "first_shown": one.vote.display[0] if one.vote.display else "",
            "name": judged.name,
            "prompt": _json([[message.role, message.content] for message in judged.messages]),
        }
        for place in range(judged.question.replies[1]):
            reply = judged.replies[place] if place < len(judged.replies) else None
            row[f"reply_{place}"] = reply.text if reply else ""
            row[f"generator_{place}"] = f"{reply.generator.name} {reply.generator.checkpoint}".strip() if reply else ""
        yield {column: value if column in _NUMBERS else str(value) for column, value in row.items()}


def _stamps(judged: Judged, one: Opinion) -> dict[str, Any]:
    return {
        "id": judged.id,
        "item": judged.item,
        "judgement": one.vote.judgement,
        "assignment": one.vote.assignment,
        "annotator": one.annotator,
        "at": one.vote.at.isoformat(),
        "question": one.question,
        "guideline": one.guideline,
        "direction": one.direction,
        "active_ms": one.vote.active_ms,
        "wall_ms": one.vote.wall_ms,
        "late": one.vote.late,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""
