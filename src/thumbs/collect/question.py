"""What people are asked, and what counts as an answer.

A question is versioned; every judgement is stamped with the version that it answers. Answers come in *display* order,
as the person saw the replies, and are kept in *canonical* order, that of the item's slots, so that nobody downstream
has to know who saw what on the left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

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

    @field_validator("axes")
    @classmethod
    def _different_keys(cls, axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        if len({axis.key for axis in axes}) < len(axes):
            raise ValueError("two axes have one key")
        return axes

    @model_validator(mode="after")
    def _can_be_answered(self) -> Question:
        if self.kind == "rate" and not self.axes:
            raise ValueError("a rating needs `axes`")
        if any(axis.low >= axis.high for axis in self.axes):
            raise ValueError("an axis must rise from `low` to `high`")
        return self

    @property
    def replies(self) -> tuple[int, int]:
        """How many replies an item must have, at least and at most."""
        return _REPLIES[self.kind]

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


def read_answer(question: Question, display: Sequence[int], body: Mapping[str, Any]) -> Answer:
    """The answer in canonical order of a body in display order; display[place] is the slot shown there.

    Body: verdict, strength (negative: the first shown is better), axes {key: number}, ranks [one per place], ratings
    [{key: number}, one per place], flags [[name], one per place], text, reason, skip_reason; what the kind has no use
    for must be absent. Raises AnswerError with all faults.
    """
    return _Reader(question, tuple(display), body).answer()


def shown_answer(answer: Answer, display: Sequence[int]) -> dict[str, Any]:
    """Inverse of read_answer: the body that gives `answer` when replies are shown in that order."""
    sign = -1 if tuple(display) == (1, 0) else 1
    body: dict[str, Any] = {"verdict": answer.verdict}
    if answer.strength:
        body["strength"] = sign * answer.strength
    if answer.axes:
        body["axes"] = {key: sign * value for key, value in answer.axes.items()}
    for name, values in (("ranks", answer.ranks), ("ratings", answer.ratings), ("flags", answer.flags)):
        if values:
            body[name] = [_plain(values[slot]) for slot in display]
    for name in ("text", "reason", "skip_reason"):
        if getattr(answer, name):
            body[name] = getattr(answer, name)
    return body


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


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value


class _Reader:
    def __init__(self, question: Question, display: tuple[int, ...], body: Mapping[str, Any]) -> None:
        self.question, self.display, self.body = question, display, body
        self.faults: list[tuple[str, str]] = []

    def answer(self) -> Answer:
        known = {"verdict", "strength", "axes", "ranks", "ratings", "flags", "text", "reason", "skip_reason"}
        for key in self.body.keys() - known:
            self.fault(f"/{key}", "unknown")
        verdict = self.verdict()
        skipped = verdict == "skip"
        answer = Answer(
            verdict=verdict,
            strength=self.strength(verdict),
            axes={} if skipped else self.axes(),
            ranks=self.ranks() if verdict == "rank" else (),
            ratings=self.ratings() if verdict == "rate" else (),
            flags=() if skipped else self.flags(),
            text=self.text("text", needed=verdict == "write"),
            reason=self.text("reason", needed=self.question.reason == "required" and not skipped),
            skip_reason=self.skip_reason() if skipped else "",
        )
        for key, fits in (("ranks", "rank"), ("ratings", "rate"), ("skip_reason", "skip")):
            if self.body.get(key) and verdict != fits:
                self.fault(f"/{key}", f"does not go with the verdict {verdict!r}")
        if self.faults:
            raise AnswerError(self.faults)
        return answer

    def fault(self, pointer: str, text: str) -> None:
        self.faults.append((pointer, text))

    def verdict(self) -> Verdict:
        q = self.question
        allowed: list[Verdict] = ["skip"]
        allowed.append("prefer" if q.is_pair else _VERDICTS[q.kind])
        if q.is_pair and q.tie:
            allowed.append("tie")
        if q.is_pair and q.both_bad:
            allowed.append("both_bad")
        given = self.body.get("verdict")
        if given not in allowed:
            self.fault("/verdict", f"must be one of {', '.join(allowed)}, got {given!r}"[:200])
            return "skip"
        return allowed[allowed.index(given)]

    def strength(self, verdict: Verdict) -> int:
        value = self.body.get("strength") or 0
        if verdict != "prefer":
            if value:
                self.fault("/strength", "only goes with the verdict 'prefer'")
            return 0
        if not _is_int(value) or value not in STRENGTHS:
            self.fault("/strength", f"must be one of {STRENGTHS}, got {value!r}"[:200])
            return 0
        return self.sign() * value

    def sign(self) -> int:
        return -1 if self.display == (1, 0) else 1

    def axes(self) -> dict[str, int]:
        """Of pairs: -4 … 4 in display order, 0 is equal."""
        given = self.body.get("axes") or {}
        if not self.question.is_pair:
            if given:
                self.fault("/axes", "pairs alone are compared on axes")
            return {}
        return {key: self.sign() * value for key, value in self.numbers(given, "/axes", lambda axis: (-4, 4)).items()}

    def numbers(self, given: Any, pointer: str, limits: Any) -> dict[str, int]:
        """{axis: number} within its limits, the required ones among them."""
        if not isinstance(given, Mapping):
            self.fault(pointer, "must be an object of axis and number")
            return {}
        axes = {axis.key: axis for axis in self.question.axes}
        for key in given.keys() - axes.keys():
            self.fault(f"{pointer}/{key}", f"no such axis; there are {', '.join(axes) or 'none'}")
        found = {}
        for key, axis in axes.items():
            value, (low, high) = given.get(key), limits(axis)
            if value is None:
                if axis.required:
                    self.fault(f"{pointer}/{key}", "is required")
            elif not _is_int(value) or not low <= value <= high:
                self.fault(f"{pointer}/{key}", f"must be a whole number from {low} to {high}, got {value!r}"[:200])
            else:
                found[key] = value
        return found

    def listed(self, name: str, empty: Any) -> list[Any]:
        """The values of `name`, one a shown reply, in canonical order."""
        values = self.body.get(name)
        if not isinstance(values, list) or len(values) != len(self.display):
            self.fault(f"/{name}", f"must be a list of {len(self.display)}, one per reply")
            return [empty] * len(self.display)
        return [values[self.display.index(slot)] for slot in range(len(self.display))]

    def ranks(self) -> tuple[int, ...]:
        ranks = self.listed("ranks", 1)
        if not all(_is_int(rank) and 1 <= rank <= len(self.display) for rank in ranks):
            self.fault("/ranks", f"are whole numbers from 1, the best, to {len(self.display)}; equal ones are ties")
            return ()
        order = sorted(set(ranks))  # 1, 3, 3 says the same as 1, 2, 2
        return tuple(order.index(rank) + 1 for rank in ranks)

    def ratings(self) -> tuple[dict[str, int], ...]:
        given = self.listed("ratings", {})
        return tuple(self.numbers(one, "/ratings", lambda axis: (axis.low, axis.high)) for one in given)

    def flags(self) -> tuple[tuple[str, ...], ...]:
        if not self.body.get("flags"):
            return ()
        given = self.listed("flags", [])
        for names in given:
            if not isinstance(names, list) or any(name not in self.question.flags for name in names):
                self.fault("/flags", f"allowed: {', '.join(self.question.flags) or 'none'}")
                return ()
        return tuple(tuple(flag for flag in self.question.flags if flag in names) for names in given)

    def text(self, name: str, *, needed: bool) -> str:
        value = self.body.get(name) or ""
        if not isinstance(value, str) or len(value) > MOST_TEXT:
            self.fault(f"/{name}", f"must be text of at most {MOST_TEXT} characters")
            return ""
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            self.fault(f"/{name}", "holds a character that cannot be kept")
        if needed and not value.strip():
            self.fault(f"/{name}", "is required")
        allowed = {"text": self.question.rewrite or needed, "reason": self.question.reason != "never"}[name]
        if value and not allowed:
            self.fault(f"/{name}", "this question does not ask for it")
        return value.strip() and value

    def skip_reason(self) -> str:
        reason = self.body.get("skip_reason")
        if reason not in self.question.skip_reasons:
            self.fault("/skip_reason", f"must be one of {', '.join(self.question.skip_reasons)}")
            return ""
        return str(reason)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
