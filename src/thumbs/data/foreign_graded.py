"""Rated and ranked replies, and prompts with their answers, as named projects keep them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from thumbs.data.shapes import Format, Row, is_list
from thumbs.data.sources import RowError
from thumbs.data.verdicts import chosen_axis

_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def _helpsteer_ratings(row: Row) -> Row:
    axis = chosen_axis("HelpSteer", {key: key for key in _HELPSTEER if key in row})
    return {"prompt": row["prompt"], "reply": row["response"], "rating": row[axis]}


def _rated_on_axes(row: Row) -> Row:
    ratings = row["ratings"]
    reply = next(row[key] for key in ("response", "completion", "reply") if key in row)
    return {"prompt": row["prompt"], "reply": reply, "rating": chosen_axis("a reply rated on axes", ratings)}


def _ultrafeedback(row: Row) -> Row:
    """The replies of a row with their order on one axis, equal numbers tied."""
    items = row["completions"]
    numbers = [_scores(item) for item in items]
    axes = {axis: axis for axis in numbers[0] if all(axis in one for one in numbers)}
    if not axes:
        raise RowError("bad_label", "UltraFeedback: no score or rating that every completion has")
    axis = chosen_axis("UltraFeedback", axes)
    values = [one[axis] for one in numbers]
    ranks = [1 + sum(other > value for other in values) for value in values]
    return {"prompt": row["instruction"], "replies": [item["response"] for item in items], "ranks": ranks}


def _scores(item: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a completion by axis: its scores, and the rating of each annotation."""
    found = {key: item[key] for key in ("overall_score", "fine-grained_score") if key in item}
    for axis, told in item.get("annotations", {}).items():
        rating = told.get("Rating", told.get("rating")) if isinstance(told, Mapping) else told
        if isinstance(rating, str | int | float):
            found[axis] = rating
    numbers = {}
    for axis, value in found.items():
        try:
            numbers[axis] = float(value)
        except (TypeError, ValueError):
            continue  # "N/A" stands where the annotator gave no rating
    return numbers


def _nectar(row: Row) -> Row:
    answers = sorted(row["answers"], key=lambda item: item["rank"])
    return {
        "prompt": row["prompt"],
        "replies": [a["answer"] for a in answers],
        "ranks": [int(a["rank"]) for a in answers],
    }


def _verl(row: Row) -> Row:
    truth = row["reward_model"].get("ground_truth") if isinstance(row["reward_model"], Mapping) else None
    answer = truth if truth is None or isinstance(truth, str | int | float) else json.dumps(truth)
    return {"prompt": row["prompt"]} | ({} if answer is None else {"answer": answer})


def _objects(key: str, *wanted: str) -> Callable[[Row], bool]:
    """Whether a key holds a list of objects that have those keys."""

    def fits(row: Row) -> bool:
        items: Sequence[Any] = row[key]
        return (
            is_list(items) and len(items) > 0 and all(isinstance(i, Mapping) and set(wanted) <= set(i) for i in items)
        )

    return fits


GRADED: tuple[Format, ...] = (
    Format(
        "HelpSteer",
        "ratings",
        ("prompt", "response", "helpfulness|correctness|coherence|complexity|verbosity"),
        _HELPSTEER,
        convert=_helpsteer_ratings,
        prompt=("prompt",),
    ),
    Format(
        "a reply rated on axes",
        "ratings",
        ("prompt", "response|completion|reply", "ratings"),
        ("id",),
        fits=lambda row: isinstance(row["ratings"], Mapping) and len(row["ratings"]) > 0,
        convert=_rated_on_axes,
        prompt=("prompt",),
    ),
    Format(
        "UltraFeedback",
        "rankings",
        ("instruction", "completions"),
        (),
        ("source", "models", "correct_answers", "incorrect_answers"),
        _objects("completions", "response"),
        _ultrafeedback,
        ("instruction",),
    ),
    Format(
        "Nectar",
        "rankings",
        ("prompt", "answers"),
        (),
        ("turns", "num_responses", "source", "good_natured"),
        _objects("answers", "answer", "rank"),
        _nectar,
        ("prompt",),
    ),
    Format(
        "prompts of verl",
        "prompts",
        ("prompt", "reward_model"),
        (),
        ("data_source", "ability", "extra_info", "agent_name"),
        convert=_verl,
        prompt=("prompt",),
    ),
)
