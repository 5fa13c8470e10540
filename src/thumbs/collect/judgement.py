"""The one place that reads a judgement: what it says of the replies, and whether it counts.

People answer the question that they were asked. A *reversed* question asks for the more harmful reply, and its answer
is turned round here, so that whatever reads judgements (runs, exports, statistics, tests of new people) speaks of the
better reply alone. What counts is a setting of the project, and so the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field
from sqlalchemy import Row

from thumbs.collect.question import Question
from thumbs.collect.records import Answer, Vote
from thumbs.config.base import Frozen


class Counting(Frozen):
    """Which judgements count. The others stay in the database, and the pages show them."""

    question_version: int | None = Field(default=None, ge=1)
    """Only answers to this version of the question count; null: to any."""
    exclude_late: bool = False
    """Leave out answers that came after their lease had run out."""
    exclude_people: tuple[str, ...] = ()
    """Handles of people whose answers are left out."""


@dataclass(frozen=True)
class Rule:
    """`Counting` with the people's handles resolved to accounts."""

    counting: Counting
    left_out: frozenset[int] = frozenset()

    def why_not(self, vote: Vote) -> str | None:
        """Why a judgement does not count, a key of `exports.DROPS`; None if it does."""
        if self.counting.question_version not in (None, vote.version):
            return "question_version"
        if self.counting.exclude_late and vote.late:
            return "late"
        return "person" if vote.account in self.left_out else None


def read_judgement(row: Row[Any], question: Question, version: int) -> Vote:
    """The judgement of a row of JUDGEMENTS that also has the `display` of its assignment.

    question, version: what the person was asked, by the row's question_id.
    """
    given = _plain_answer(row.answer)
    return Vote(
        judgement=row.id,
        assignment=row.assignment_id,
        item=row.item_id,
        account=row.account_id,
        question=row.question_id,
        guideline=row.guideline_id,
        answer=restated(given, question),
        display=tuple(row.display),
        active_ms=row.active_ms,
        wall_ms=row.wall_ms,
        late=row.late,
        at=row.created,
        given=given,
        version=version,
        direction=question.direction,
    )


def read_gold(plain: Mapping[str, Any] | None, question: Question) -> Answer | None:
    """The right answer of an item, which answers `question`, in terms of the better reply; None if nobody knows it."""
    return None if plain is None else restated(_plain_answer(plain), question)


def restated(answer: Answer, question: Question) -> Answer:
    """An answer as given in terms of the better reply, or the other way round: twice is as before.

    A reversed question turns the sign, the order, and the ratings within their scale; an axis says itself which end of
    it is good (`Axis.best`). Ties and two bad replies are what they are.
    """
    low = {axis.key: axis for axis in question.axes if question.low_is_best(axis)}
    if question.direction == "better" and not low:
        return answer
    turned = question.direction != "better"
    worst = max(answer.ranks, default=0)
    return replace(
        answer,
        strength=-answer.strength if turned else answer.strength,
        ranks=tuple(worst + 1 - rank for rank in answer.ranks) if turned else answer.ranks,
        axes={key: -value if key in low else value for key, value in answer.axes.items()},
        ratings=tuple(
            {key: low[key].low + low[key].high - value if key in low else value for key, value in one.items()}
            for one in answer.ratings
        ),
    )


def _plain_answer(plain: Mapping[str, Any]) -> Answer:
    """The answer of its plain data, as `dataclasses.asdict` makes it."""
    lists = {
        "ranks": tuple(plain.get("ranks") or ()),
        "ratings": tuple(plain.get("ratings") or ()),
        "flags": tuple(tuple(names) for names in plain.get("flags") or ()),
    }
    return Answer(**{**plain, **lists})
