"""What people are asked, and what counts as an answer.

A question is versioned; every judgement is stamped with the version that it answers. Answers come in *display* order,
as the person saw the replies, and are kept in *canonical* order, that of the item's slots, so that nobody downstream
has to know who saw what on the left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from thumbs.collect.records import Answer, Verdict
from thumbs.config.base import Frozen
from thumbs.errors import ThumbsError

Kind = Literal["pair", "rank", "rate", "write", "rewrite", "chat"]
STRENGTHS = (-4, -3, -2, -1, 1, 2, 3, 4)
"""Much, clearly, a bit, hardly better: below 0 the first reply, above 0 the second; there is no 0."""
MOST_TEXT = 20_000
"""Characters of a reason or of what was written."""
_REPLIES = {"pair": (2, 2), "chat": (2, 2), "rank": (2, 9), "rate": (1, 9), "write": (0, 0), "rewrite": (1, 1)}
_VERDICTS: dict[str, Verdict] = {"rank": "rank", "rate": "rate", "write": "write", "rewrite": "write"}
_GOES_WITH = {
    "strength": ("prefer",),
    "axes": ("prefer", "tie", "both_bad"),
    "ranks": ("rank",),
    "ratings": ("rate",),
    "flags": ("prefer", "tie", "both_bad", "rank", "rate", "write"),
    "skip_reason": ("skip",),
}
"""Parts of an answer, and the verdicts that they belong to."""
_KEY = r"[a-z][a-z0-9_]{0,39}"


class Axis(Frozen):
    """One quality that replies are compared or rated on."""

    key: str = Field(pattern=f"^{_KEY}$")
    """Its name in files."""
    label: str
    """Its name on the page."""
    low: int = Field(default=1, ge=0, le=10)
    """Lowest rating; pairs are always compared from -4 to 4."""
    high: int = Field(default=5, ge=1, le=10)
    """Highest rating."""
    required: bool = False
    """Whether an answer without it is refused."""
    best: Literal["high", "low"] | None = None
    """Which end is good; null: the high one, or the low one for ratings of a reversed question (`more_harmful`)."""


class Question(Frozen):
    """The task, the words it is asked in, and which answers it allows."""

    kind: Kind = "pair"
    """pair: which of two replies is better; rank: order K replies; rate: numbers per reply; write: a reply of one's
    own; rewrite: a better version of a reply; chat: pairs within a conversation with the live policy.
    """
    text: str = ""
    """The question as asked; empty: the page's own words for that kind."""
    direction: Literal["better", "more_harmful"] = "better"
    """What choosing a reply says of it. Answers to `more_harmful` are turned round wherever they are used: in runs,
    exports and statistics.
    """
    tie: bool = True
    """Whether two replies may be equally good."""
    both_bad: bool = True
    """Whether neither may be good."""
    skip_reasons: tuple[str, ...] = ("unclear", "expertise", "language", "broken", "other")
    """Why a task may be passed on; the first five have words of their own in every language of the page."""
    axes: tuple[Axis, ...] = ()
    """Qualities asked for in addition to the verdict, or instead of it when rating."""
    flags: tuple[str, ...] = ()
    """What may be wrong with a single reply, to tick."""
    reason: Literal["never", "optional", "required"] = "optional"
    """Whether people may or must say why."""
    rewrite: bool = False
    """Whether a pair may be answered with a better reply in addition to the verdict."""

    @model_validator(mode="after")
    def _can_be_answered(self) -> Question:
        if len({axis.key for axis in self.axes}) < len(self.axes):
            raise ValueError("two axes have one key")
        if self.kind == "rate" and not self.axes:
            raise ValueError("a rating needs `axes`")
        if any(axis.low >= axis.high for axis in self.axes):
            raise ValueError("an axis must rise from `low` to `high`")
        return self

    @property
    def replies(self) -> tuple[int, int]:
        """How many replies an item must have, at least and at most."""
        return _REPLIES[self.kind]

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What an answer may say."""
        if not self.is_pair:
            return ("skip", _VERDICTS[self.kind])
        allowed: dict[Verdict, bool] = {"skip": True, "prefer": True, "tie": self.tie, "both_bad": self.both_bad}
        return tuple(verdict for verdict, is_allowed in allowed.items() if is_allowed)

    def low_is_best(self, axis: Axis) -> bool:
        """Whether the low end of an axis is the good one."""
        reversed_ratings = self.direction == "more_harmful" and self.kind == "rate"
        return axis.best == "low" or (axis.best is None and reversed_ratings)

    @property
    def is_pair(self) -> bool:
        """Whether two replies are compared."""
        return self.kind in ("pair", "chat")


class AnswerError(ThumbsError, ValueError):
    """An answer that the question does not allow: (JSON pointer, what is wrong) of each fault."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{pointer or '/'}: {text}" for pointer, text in faults))
        self.faults = tuple(faults)


class _Body(BaseModel):
    """The parts of an answer as it comes, in display order."""

    model_config = ConfigDict(extra="forbid")

    verdict: str
    strength: StrictInt = 0
    axes: dict[str, StrictInt | None] = {}
    ranks: list[StrictInt] = []
    ratings: list[dict[str, StrictInt | None]] = []
    flags: list[list[str]] = []
    text: str = Field("", max_length=MOST_TEXT, pattern=r"^[^\x00]*$")
    reason: str = Field("", max_length=MOST_TEXT, pattern=r"^[^\x00]*$")
    skip_reason: str = ""


def read_answer(question: Question, display: Sequence[int], body: Mapping[str, Any]) -> Answer:
    """The answer in canonical order of a body in display order; display[place] is the slot shown there.

    Body: verdict, strength (negative: the first shown is better), axes {key: number}, ranks [one per place], ratings
    [{key: number}, one per place], flags [[name], one per place], text, reason, skip_reason; what the kind has no use
    for must be absent. Raises AnswerError with all faults of the parts' types, or else of what they say.
    """
    try:
        said = _Body.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        faults = [("/" + "/".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        raise AnswerError(faults) from None
    if faults := [*_faults_of_verdict(question, said), *_faults_of_lists(question, said, len(display))]:
        raise AnswerError(faults)
    best = sorted(set(said.ranks))  # 1, 3, 3 says the same as 1, 2, 2
    shown = Answer(
        verdict=cast("Verdict", said.verdict),
        strength=said.strength,
        axes=_numbers(question, said.axes),
        ranks=tuple(best.index(rank) + 1 for rank in said.ranks),
        ratings=tuple(_numbers(question, ratings) for ratings in said.ratings),
        flags=tuple(tuple(flag for flag in question.flags if flag in names) for names in said.flags),
        text=said.text.strip() and said.text,
        reason=said.reason.strip() and said.reason,
        skip_reason=said.skip_reason,
    )
    return _moved(shown, [list(display).index(slot) for slot in range(len(display))])


def shown_answer(answer: Answer, display: Sequence[int]) -> dict[str, Any]:
    """Inverse of read_answer: the body that gives `answer` when replies are shown in that order."""
    return {name: value for name, value in asdict(_moved(answer, display)).items() if value}


def _moved(answer: Answer, order: Sequence[int]) -> Answer:
    """The answer where the reply that stood at order[i] stands at i."""
    sign = -1 if tuple(order) == (1, 0) else 1
    lists = {name: getattr(answer, name) for name in ("ranks", "ratings", "flags")}
    return replace(
        answer,
        strength=sign * answer.strength,
        axes={key: sign * value for key, value in answer.axes.items()},
        **{name: tuple(values[place] for place in order) if values else () for name, values in lists.items()},
    )


def is_right(answer: Answer, gold: Answer) -> bool:
    """Whether an answer says what is known to be right: the same verdict, the same side, the same best replies, or
    ratings within 1. A skip never does.
    """
    if answer.verdict != gold.verdict or answer.verdict == "skip":
        return False
    best = [{slot for slot, rank in enumerate(one.ranks) if rank == 1} for one in (answer, gold)]
    near = all(
        abs(given.get(key, value + 2) - value) <= 1
        for given, right in zip(answer.ratings, gold.ratings, strict=False)
        for key, value in right.items()
    )
    return answer.strength * gold.strength >= 0 and best[0] == best[1] and near


def _faults_of_verdict(question: Question, said: _Body) -> Iterator[tuple[str, str]]:
    """Of the verdict, and of what goes with another one."""
    verdict = said.verdict
    if verdict not in question.verdicts:
        yield "/verdict", f"must be one of {', '.join(question.verdicts)}, got {verdict!r}"[:200]
    for name, verdicts in _GOES_WITH.items():
        if getattr(said, name) and verdict not in verdicts:
            yield f"/{name}", f"does not go with the verdict {verdict!r}"
    if verdict == "prefer" and said.strength not in STRENGTHS:
        yield "/strength", f"must be one of {STRENGTHS}, got {said.strength}"[:200]
    if verdict == "skip" and said.skip_reason not in question.skip_reasons:
        yield "/skip_reason", f"must be one of {', '.join(question.skip_reasons)}"
    needs_reason = question.reason == "required" and verdict != "skip"
    yield from _faults_of_text("/text", said.text, needed=verdict == "write", asked=question.rewrite)
    yield from _faults_of_text("/reason", said.reason, needed=needs_reason, asked=question.reason != "never")


def _faults_of_text(pointer: str, text: str, *, needed: bool, asked: bool) -> Iterator[tuple[str, str]]:
    if needed and not text.strip():
        yield pointer, "is required"
    if text and not (needed or asked):
        yield pointer, "this question does not ask for it"


def _faults_of_lists(question: Question, said: _Body, n: int) -> Iterator[tuple[str, str]]:
    """Of what is said of single replies and axes."""
    for name, needed in (("ranks", said.verdict == "rank"), ("ratings", said.verdict == "rate"), ("flags", False)):
        given = getattr(said, name)
        if (given or needed) and len(given) != n:
            yield f"/{name}", f"must be a list of {n}, one per reply"
    if not all(1 <= rank <= n for rank in said.ranks):
        yield "/ranks", f"are whole numbers from 1, the best, to {n}; equal ones are ties"
    if not all(set(names) <= set(question.flags) for names in said.flags):
        yield "/flags", f"allowed: {', '.join(question.flags) or 'none'}"
    if question.is_pair and said.verdict != "skip":
        yield from _faults_of_numbers(question, said.axes, "/axes", (-4, 4))
    for ratings in said.ratings:
        yield from _faults_of_numbers(question, ratings, "/ratings")


def _faults_of_numbers(
    question: Question, given: Mapping[str, int | None], pointer: str, scale: tuple[int, int] | None = None
) -> Iterator[tuple[str, str]]:
    """Of {axis: number} on that scale, or on each axis' own."""
    for key in given.keys() - {axis.key for axis in question.axes}:
        yield f"{pointer}/{key}", f"no such axis; there are {', '.join(axis.key for axis in question.axes) or 'none'}"
    for axis in question.axes:
        value, (low, high) = given.get(axis.key), scale or (axis.low, axis.high)
        if value is None and axis.required:
            yield f"{pointer}/{axis.key}", "is required"
        if value is not None and not low <= value <= high:
            yield f"{pointer}/{axis.key}", f"must be a whole number from {low} to {high}, got {value}"[:200]


def _numbers(question: Question, given: Mapping[str, int | None]) -> dict[str, int]:
    """What is given, in the order of the axes."""
    return {axis.key: value for axis in question.axes if (value := given.get(axis.key)) is not None}
