"""An item with what people said of it, and what follows when they do not all say the same."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thumbs.collect.question import Question
from thumbs.collect.records import Answer, Texts, Vote

Side = Literal["first", "second", "tie", "both_bad"]
Aggregate = Literal["all", "majority", "first"]


@dataclass(frozen=True)
class Opinion:
    """A judgement as it leaves: strengths and ranks say which reply is *better*, whatever was asked; `annotator` is a
    person's handle; guideline is a version number; question: what was answered.
    """

    vote: Vote
    annotator: str
    answer: Answer
    guideline: int
    question: Question

    @property
    def side(self) -> Side:
        """What it says of two replies."""
        if self.answer.verdict == "prefer":
            return "first" if self.answer.strength < 0 else "second"
        return "both_bad" if self.answer.verdict == "both_bad" else "tie"


@dataclass(frozen=True)
class JudgedItem(Texts):
    """An item and the opinions on it, oldest first. id: "project/item"; question: the newest that they answer."""

    id: str
    question: Question
    opinions: tuple[Opinion, ...]


def winner(opinions: Sequence[Opinion]) -> Side:
    """The side that most opinions on a pair take; "tie" where two sides lead."""
    sides: list[Side] = [opinion.side for opinion in opinions]
    counts = Counter(sides).most_common()
    leads = len(counts) == 1 or counts[0][1] > counts[1][1]
    return counts[0][0] if leads else "tie"


def agreement(judged: JudgedItem) -> float:
    """Share of the opinions that say what most say: of a ranking, the mean of that over all pairs of its replies."""
    if judged.question.is_pair:
        return share([opinion.side for opinion in judged.opinions])
    pairs = itertools.combinations(range(len(judged.replies)), 2)
    shares = [share([_order(opinion.answer.ranks, *pair) for opinion in judged.opinions]) for pair in pairs]
    return sum(shares) / len(shares)


def merged(judged: JudgedItem, aggregate: Aggregate) -> JudgedItem:
    """The item with one opinion: the oldest ("first"), or what most people say of a pair ("majority").

    A majority has the mean strength of those who make it, to the nearest step (of two the even one), and the time
    of its last judgement.
    """
    if aggregate == "all" or len(judged.opinions) == 1:
        return judged
    if aggregate == "first":
        return replace(judged, opinions=judged.opinions[:1])
    side = winner(judged.opinions)
    told = [opinion for opinion in judged.opinions if opinion.side == side]
    strength = round(sum(abs(opinion.answer.strength) for opinion in told) / len(told)) if told else 0
    answer = {
        "first": Answer("prefer", -strength),
        "second": Answer("prefer", strength),
        "tie": Answer("tie"),
        "both_bad": Answer("both_bad"),
    }[side]
    last = judged.opinions[-1]
    one = replace(last, answer=answer, annotator=f"majority of {len(judged.opinions)}")
    return replace(judged, opinions=(one,))


def answer_on_axis(answer: Answer, axis: str) -> Answer | None:
    """The comparison of two replies on that axis in the place of the verdict; None if nothing was said of it."""
    value = answer.axes.get(axis)
    if value is None:
        return None
    return replace(answer, verdict="prefer" if value else "tie", strength=value)


def rating_of(question: Question, axis: str | None, answer: Answer, slot: int) -> float | None:
    """How a slot is rated by an answer: on `axis`, or the mean over axes; None if there is no number."""
    given = answer.ratings[slot]
    values = [given[one.key] for one in question.axes if one.key in given and axis in (None, one.key)]
    return sum(values) / len(values) if values else None


def share(sides: Sequence[object]) -> float:
    """How large a part the most frequent one is."""
    return Counter(sides).most_common(1)[0][1] / len(sides)


def _order(ranks: Sequence[int], i: int, j: int) -> int:
    return (ranks[i] > ranks[j]) - (ranks[i] < ranks[j])
