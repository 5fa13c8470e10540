"""The formats: which answers each has a place for, and the rows that an item becomes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from thumbs.collect.errors import CollectError
from thumbs.collect.exports import rows
from thumbs.collect.exports.judged import JudgedItem
from thumbs.collect.exports.safety import safety_fault, safety_rows
from thumbs.collect.exports.select import Filters
from thumbs.collect.question import Question
from thumbs.collect.records import Answer
from thumbs.data.prompts import check_prompt
from thumbs.data.rankings import MOST_TIED
from thumbs.data.sources import RowError

Row = Mapping[str, Any]
Rows = Callable[[JudgedItem, Filters], Iterator[Row]]
_PAIRS = ("pair", "chat")
_COMPARED = (*_PAIRS, "rank")
_WRITTEN = ("write", "rewrite")
_STRENGTHS = ("margin", "weight")


@dataclass(frozen=True)
class ExportFormat:
    """One format. rows: by the kind of the question, what an item becomes; without: the reasons of UNFIT for which it
    has no place for an opinion; forged: whether replies must not read as turns of their own; scored: it needs ratings
    on one scale; strengths: what it can show the strength of a pair as; fault: what a question and filters lack for it.
    """

    text: str
    rows: Mapping[str, Rows]
    without: tuple[str, ...] = ()
    forged: bool = False
    suffix: str = ".jsonl"
    scored: bool = False
    strengths: tuple[str, ...] = ()
    fault: Callable[[Question, Filters], str | None] = lambda question, filters: None


_WITHOUT: Mapping[str, Callable[[Answer], bool]] = {
    "both_bad": lambda answer: answer.verdict == "both_bad",
    "tied": lambda answer: max(Counter(answer.ranks).values(), default=0) > MOST_TIED,
    "unrated": lambda answer: answer.verdict == "rate" and not any(answer.ratings),
}


def _of(make: Rows, *kinds: str) -> dict[str, Rows]:
    return dict.fromkeys(kinds, make)


_TABLE: Mapping[str, ExportFormat] = {
    "preferences": ExportFormat(
        "pairs in our own format, which training reads: every annotator, strength, tie, reason and generator",
        _of(rows.preference_rows, *_PAIRS),
        strengths=_STRENGTHS,
    ),
    "trl": ExportFormat(
        "conversational prompt, chosen and rejected, with margin, votes and agreement; the pairs of rankings too",
        _of(rows.trl_rows, *_COMPARED),
        without=("both_bad",),
        strengths=_STRENGTHS,
    ),
    "kto": ExportFormat(
        "single replies with a label, desirable or not: prompt, completion, label",
        _of(rows.labelled_rows, *_PAIRS, "rate"),
        scored=True,
    ),
    "ranked": ExportFormat(
        "rankings of K replies in our own format, with the ranks of every annotator",
        _of(rows.ranking_rows, *_COMPARED),
        without=("tied", "both_bad"),
    ),
    "ratings": ExportFormat(
        "rated replies in our own format, with the number of every annotator, on one axis or the mean over axes",
        _of(rows.rating_rows, "rate"),
        without=("unrated",),
        scored=True,
    ),
    "cookbook": ExportFormat(
        "comparisons A, B or Tie as the Tinker cookbook keeps them, a row per judgement",
        _of(rows.comparison_rows, *_PAIRS),
        without=("both_bad",),
    ),
    "safety": ExportFormat(
        "pairs on two axes in PKU-SafeRLHF's columns, for a reward model (helpfulness) and a cost model (safe or not)",
        _of(safety_rows, *_PAIRS, "rate"),
        fault=safety_fault,
    ),
    "sft": ExportFormat(
        "conversations to imitate: what people wrote, or else the reply that they like best",
        _of(rows.conversation_rows, *_COMPARED, "rate", *_WRITTEN),
        scored=True,
    ),
    "hh": ExportFormat(
        "pairs of transcripts as in HH-RLHF; texts that would read as turns of their own are left out",
        _of(rows.transcript_rows, *_COMPARED),
        without=("both_bad",),
        forged=True,
    ),
    "dataset": ExportFormat(
        "a folder for datasets.load_from_disk: chosen and rejected, rated replies, or conversations",
        _of(rows.trl_rows, *_COMPARED) | _of(rows.mean_rating_rows, "rate") | _of(rows.conversation_rows, *_WRITTEN),
        without=("both_bad", "unrated"),
        suffix="",
        scored=True,
        strengths=_STRENGTHS,
    ),
    "votes": ExportFormat(
        "a row per judgement with everything that is known of it",
        _of(rows.vote_rows, *_COMPARED, "rate", *_WRITTEN),
    ),
    "csv": ExportFormat(
        "the same as a table for spreadsheets: nothing runs as a formula, and long texts go on in further columns",
        _of(rows.table_rows, *_COMPARED, "rate", *_WRITTEN),
        suffix=".csv",
    ),
}

FORMATS: Mapping[str, str] = MappingProxyType({name: one.text for name, one in _TABLE.items()})
"""Every format and what it holds, in a line."""

UNFIT = (*_WITHOUT, "undecided", "system", "forged_turn", "prompt")
"""Why a format has no place for a judgement, counted after DROPS; the last four are of its whole item: nobody leads or
nothing was written, a system message, text that would read as turns of its own, a prompt without a user's turn at its
end.
"""


def find_format(name: str, question: Question, filters: Filters) -> ExportFormat:
    """The format of that name; raises CollectError if there is none, or it does not fit the question or filters."""
    found = _TABLE.get(name)
    if found is None:
        raise CollectError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    if question.kind not in found.rows:
        fit = [other for other, one in _TABLE.items() if question.kind in one.rows]
        raise CollectError(f"{name!r} has no place for answers to {question.kind!r}; use {', '.join(fit)}")
    if (fault := found.fault(question, filters)) is not None:
        raise CollectError(f"{name!r} {fault}")
    if name in ("votes", "csv") and filters.aggregate == "majority":
        raise CollectError(f"{name!r} has a row per judgement, and a majority is none; use aggregate all or first")
    if filters.strength_as not in ("none", *found.strengths):
        places = [other for other, one in _TABLE.items() if filters.strength_as in one.strengths]
        raise CollectError(f"{name!r} has no place for a {filters.strength_as}; use {', '.join(places)}")
    scales = {(axis.low, axis.high) for axis in question.axes}
    if found.scored and question.kind == "rate" and filters.axis is None and len(scales) > 1:
        raise CollectError(f"{name!r} needs one number per reply, and the axes have different scales; choose an axis")
    return found


def fitted(
    form: ExportFormat, judged: JudgedItem, filters: Filters, dropped: Counter[str]
) -> tuple[JudgedItem, Sequence[Row]]:
    """The item with the opinions that the format has a place for, and its rows, none if there are no such opinions.
    Counts the others.
    """
    kept = []
    for opinion in judged.opinions:
        reason = next((reason for reason in form.without if _WITHOUT[reason](opinion.answer)), None)
        if reason is None:
            kept.append(opinion)
        else:
            dropped[reason] += 1
    fit = replace(judged, opinions=tuple(kept))
    if not kept:
        return fit, ()
    reason = _bad_prompt(judged) or (rows.forged(fit) if form.forged else None)
    found = [] if reason else list(form.rows[judged.question.kind](fit, filters))
    if not found:
        dropped[reason or "undecided"] += len(kept)
    return fit, found


def _bad_prompt(judged: JudgedItem) -> str | None:
    try:
        check_prompt(judged.messages)
    except RowError:
        return "prompt"
    return None
