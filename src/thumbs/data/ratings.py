"""Numbers for replies, and numbers for the steps of a reply: how they are read."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thumbs.data.messages import Conversation
from thumbs.data.preferences import read_number
from thumbs.data.rankings import judgement_rows, read_reply, row_and_prompt, row_id
from thumbs.data.sources import RowError, read_text
from thumbs.records import Generator, Judgement, Preference, Rating, RatingJudgement, StepJudgement, SteppedReply


def read_rating(value: object, source: str = "file") -> Rating:
    """Rating of one row: `prompt`, a reply (`reply`, `response` or `completion`) and `rating`, a number, or `ratings`,
    a number from each of several annotators, or `judgements`, each with annotator, at and value.

    `source` names the file as generator and annotator where the row names neither. Raises RowError otherwise.
    """
    row, prompt = row_and_prompt(value, "ratings")
    reply = read_reply(row["reply"], source, "reply")
    if not reply.text.strip():
        raise RowError("empty_reply", "an empty reply")
    return Rating(row_id(row, prompt, [reply.text]), prompt, reply, tuple(_read_ratings(row, source)))


def mean_rating(rating: Rating) -> float:
    """The mean over annotators."""
    return sum(judgement.value for judgement in rating.judgements) / len(rating.judgements)


def pairs_of_ratings(ratings: Sequence[Rating]) -> list[Preference]:
    """The pairs of different replies to one prompt: the higher mean rating is preferred, equal ones are a tie."""
    by_prompt: dict[Conversation, list[Rating]] = {}
    for rating in ratings:
        by_prompt.setdefault(rating.prompt, []).append(rating)
    return [
        _pair(a, b)
        for group in by_prompt.values()
        for a, b in itertools.combinations(group, 2)
        if a.reply.text != b.reply.text
    ]


def read_stepped_reply(value: object, source: str = "file") -> SteppedReply:
    """Reply in steps of one row: `prompt`, `steps` (or `completions`), a list of texts, and `labels`, one each: true,
    false, a number from 0 to 1 or null; or `judgements`, each with annotator, at and labels.

    The reply is the steps one after the other; a step that ends in no white space gets a line break, but for the last.
    Raises RowError for anything else.
    """
    row, prompt = row_and_prompt(value, "steps")
    given = row["steps"]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise RowError("missing_field", "no list of 'steps'")
    texts = [read_text(step, "steps") for step in given]
    if not all(text.strip() for text in texts):
        raise RowError("empty_reply", "an empty step")
    steps = (*(text if text[-1].isspace() else text + "\n" for text in texts[:-1]), texts[-1])
    steps = (steps[0].lstrip(), *steps[1:])  # chat templates take the white space before a reply away
    generator = Generator("file", source)
    judgements = tuple(_read_step_judgements(row, len(steps), source))
    return SteppedReply(row_id(row, prompt, steps), prompt, steps, generator, judgements)


def _read_ratings(row: Mapping[str, Any], source: str) -> Iterator[RatingJudgement]:
    if row.get("judgements") is not None:
        for given in judgement_rows(row, "value"):
            number = read_number(given.get("value"), "value")
            yield RatingJudgement(given["annotator"], given["at"], number, given["reason"])
        return
    if row.get("ratings") is not None:
        numbers = row["ratings"]
        if not isinstance(numbers, Sequence) or isinstance(numbers, str | bytes) or not numbers:
            raise RowError("bad_label", f"'ratings' must be a list of numbers, got {reprlib.repr(numbers)}")
        for place, number in enumerate(numbers, start=1):
            yield RatingJudgement(f"{source}-{place}", "", read_number(number, "ratings"))
        return
    if row.get("rating") is None:
        raise RowError("missing_field", "no 'rating', 'ratings' or 'judgements'")
    yield RatingJudgement(source, "", read_number(row["rating"], "rating"))


def _read_step_judgements(row: Mapping[str, Any], steps: int, source: str) -> Iterator[StepJudgement]:
    if row.get("judgements") is not None:
        for given in judgement_rows(row, "labels"):
            labels = _read_labels(given.get("labels"), steps)
            yield StepJudgement(given["annotator"], given["at"], labels, given["reason"])
        return
    if row.get("labels") is None:
        raise RowError("missing_field", "no 'labels' or 'judgements'")
    yield StepJudgement(source, "", _read_labels(row["labels"], steps))


def _read_labels(value: object, steps: int) -> tuple[float | None, ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or len(value) != steps:
        raise RowError("bad_label", f"'labels' must be a list of {steps}, one per step")
    labels = tuple(None if x is None else float(x) if isinstance(x, bool) else read_number(x, "labels") for x in value)
    if any(label is not None and not 0 <= label <= 1 for label in labels):
        raise RowError("bad_label", f"labels lie from 0 (wrong) to 1 (right), got {reprlib.repr(value)}")
    if all(label is None for label in labels):
        raise RowError("bad_label", "no step has a label")
    return labels


def _pair(a: Rating, b: Rating) -> Preference:
    gap = mean_rating(a) - mean_rating(b)
    verdict = Judgement("ratings", "", "prefer", -1 if gap > 0 else 1) if gap else Judgement("ratings", "", "tie")
    return Preference(f"{a.id}/{b.id}", a.prompt, (a.reply, b.reply), (verdict,))
