"""Which of two replies a row says is better: labels, votes and judgements, as our judgements."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from thumbs.data.reading import current, ignore_unknown
from thumbs.data.sources import RowError, read_text
from thumbs.records import Judgement

T = TypeVar("T")

_LABELS: Mapping[object, float] = {
    **{"chosen": 1.0, "rejected": 0.0, "tie": 0.5, "true": 1.0, "false": 0.0},
    **{"1": 1.0, "0": 0.0, "0.5": 0.5, 1: 1.0, 0: 0.0, 0.5: 0.5},
}
_REPLIES: Mapping[object, bool] = {
    **dict.fromkeys((1, "1", "true", "yes", "desirable", "good"), True),
    **dict.fromkeys((0, -1, "0", "-1", "false", "no", "undesirable", "bad"), False),
}
_TIE: Mapping[object, bool] = {True: True, "true": True, False: False, "false": False, "": False}
_VERDICTS = ("prefer", "tie", "both_bad", "skip")
_KEYS = frozenset(("annotator", "at", "verdict", "strength", "reason"))


def favoured(judgements: Iterable[Judgement]) -> float | None:
    """Probability that the first reply is the better one: the mean over judgements of 1 (first), 0.5 (tie), 0 (second).

    A judgement counts once, whatever its strength; skip and both_bad do not count. None when nothing counts.
    """
    votes = [
        0.5 if judgement.verdict == "tie" else float(judgement.strength < 0)
        for judgement in judgements
        if judgement.verdict in ("prefer", "tie")
    ]
    return sum(votes) / len(votes) if votes else None


def chosen_axis(name: str, axes: Mapping[str, T]) -> T:
    """What the row says on the axis that was asked for, or on its only one; raises RowError that names the axes."""
    notes = current()
    notes.axis_used = True
    if notes.axis is not None and notes.axis in axes:
        return axes[notes.axis]
    shown = ", ".join(axes)
    if notes.axis is not None:
        raise RowError("wrong_format", f"{name}: there is no axis {notes.axis!r} here; there are {shown}")
    if len(axes) == 1 or not notes.judged:
        return next(iter(axes.values()))
    raise RowError(
        "wrong_format",
        f"{name} judges on several axes ({shown}); choose one with `axis: NAME` next to the data's `path`, or with "
        "`thumbs lint --axis NAME`",
    )


def read_verdicts(row: Mapping[str, Any], source: str) -> tuple[Judgement, ...]:
    """Judgements of chosen against rejected: those in `judgements`, or the one of `label` and `tie`.

    label: 1, true or "chosen"; 0, false or "rejected" (the annotator disagrees with the names); 0.5 or "tie"; without
    one, chosen is better. Raises RowError for other labels, and for keys that contradict each other.
    """
    if "judgements" in row:
        if "label" in row or "tie" in row:
            raise RowError("bad_label", "a row has 'judgements', or else 'label' or 'tie', not both")
        items = row["judgements"]
        if not isinstance(items, list | tuple) or not all(isinstance(item, Mapping) for item in items):
            raise RowError("not_an_object", "'judgements' must be a list of objects")
        return tuple(read_judgement(item, source) for item in items)
    label, tie = row.get("label"), _looked_up(_TIE, row.get("tie", False), "'tie' is", "true or false")
    better = (
        1.0 if label is None else _looked_up(_LABELS, label, "label", "1 or 'chosen', 0 or 'rejected', 0.5 or 'tie'")
    )
    if tie and label is not None and better != 0.5:
        raise RowError("bad_label", f"'tie' is true, and label {reprlib.repr(label)} says which reply is better")
    if tie or better == 0.5:
        return (Judgement(source, "", "tie"),)
    return (Judgement(source, "", "prefer", strength=-1 if better == 1 else 1),)


def read_label(value: object) -> bool:
    """Whether a single reply is good: true, 1, "true", "good", "desirable"; bad: false, 0, -1 and their words.

    Raises RowError for anything else.
    """
    return _looked_up(_REPLIES, value, "label", "true or false, 1 or 0, desirable or undesirable")


def read_judgement(item: Mapping[str, Any], source: str = "") -> Judgement:
    """Judgement of plain data; raises RowError for a verdict or strength that there is not, or an absent annotator."""
    ignore_unknown(item, _KEYS, "judgements[]")
    verdict = item.get("verdict")
    if verdict not in _VERDICTS:
        raise RowError("bad_label", f"'verdict' is {reprlib.repr(verdict)}; use one of {', '.join(_VERDICTS)}")
    strength = item.get("strength", 0)
    allowed = (-4, -3, -2, -1, 1, 2, 3, 4) if verdict == "prefer" else (0,)
    if isinstance(strength, bool) or not isinstance(strength, int) or strength not in allowed:
        raise RowError(
            "bad_label",
            f"strength {reprlib.repr(strength)} does not fit verdict {verdict!r}; use one of {allowed}",
        )
    return Judgement(
        annotator=read_text(item.get("annotator", source or None), "annotator"),
        at=read_text(item.get("at", ""), "at"),
        verdict=verdict,
        strength=strength,
        reason=read_text(item.get("reason", ""), "reason"),
    )


def vote(better: float, strength: int = 1, annotator: object = None, reason: object = None) -> dict[str, Any]:
    """Plain data of a judgement: the first reply is better (1), the second (0), or neither (0.5); strength 1 to 4."""
    verdict = (
        {"verdict": "tie"} if better == 0.5 else {"verdict": "prefer", "strength": -strength if better else strength}
    )
    named = {} if annotator is None else {"annotator": str(annotator)}
    return verdict | named | ({"reason": reason} if isinstance(reason, str) else {})


def signed_vote(value: Any, field: str, annotator: object = None, reason: object = None) -> dict[str, Any]:
    """Plain data of a judgement on a scale around 0, as HelpSteer has it: below 0 the first reply is better."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -4 <= value <= 4:
        raise RowError("bad_label", f"{field!r} is {reprlib.repr(value)}; a number from -4 to 4, below 0 for the first")
    return vote(0.5 if value == 0 else float(value < 0), max(round(abs(value)), 1), annotator, reason)


def _looked_up(known: Mapping[object, T], value: object, what: str, allowed: str) -> T:
    key = value.strip().lower() if isinstance(value, str) else value
    if isinstance(key, str | int | float) and key in known:
        return known[key]
    raise RowError("bad_label", f"{what} {reprlib.repr(value)}; use {allowed}")
