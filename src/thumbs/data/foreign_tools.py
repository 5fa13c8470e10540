"""The exports of annotation tools, and files that are refused by their name with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thumbs.data.shapes import PROMPTS, Format, Row, is_list
from thumbs.data.sources import RowError
from thumbs.data.verdicts import chosen_axis, vote

_PROMPTS = (*PROMPTS, "context")
_TIES = ("tie", "equal", "both", "same", "neither")
_OPEN = ("draft", "discarded", "pending")
_ROWS = "write rows with prompt, chosen and rejected, a row or an entry of `judgements` for each annotator"


def _argilla(row: Row) -> Row:
    """A record of Argilla: the fields hold a prompt and two replies, a question asks which is better."""
    fields = row["fields"]
    prompt = next((key for key in _PROMPTS if key in fields), None)
    names = [key for key in fields if key != prompt]
    if prompt is None or len(names) != 2:
        raise RowError(
            "wrong_format",
            f"Argilla: a record is read if its fields are a prompt ({', '.join(_PROMPTS)}) and two replies, got "
            f"{', '.join(map(str, fields))}; {_ROWS}",
        )
    answers = _answers(row.get("responses", {}))
    readable = {question: votes for question, given in answers.items() if (votes := _votes(given, names)) is not None}
    if answers and not readable:
        raise RowError(
            "wrong_format",
            f"Argilla: no answer to {', '.join(answers)} names one of the fields {names[0]}, {names[1]}; {_ROWS}",
        )
    if not readable:
        raise RowError(
            "missing_field", "Argilla: no submitted response says which reply is better; suggestions do not count"
        )
    votes = chosen_axis("Argilla", readable)
    return {"prompt": fields[prompt], "chosen": fields[names[0]], "rejected": fields[names[1]], "judgements": votes}


def _answers(responses: Any) -> dict[str, list[tuple[Any, Any]]]:
    """(user, value) of the submitted answers to each question, of version 1 (a list) and version 2 (an object)."""
    found: dict[str, list[tuple[Any, Any]]] = {}
    if isinstance(responses, Mapping):
        given = [(question, one) for question, items in responses.items() for one in (items if is_list(items) else [])]
    else:
        given = [
            (question, {**one, **(told if isinstance(told, Mapping) else {"value": told})})
            for one in (responses if is_list(responses) else [])
            if isinstance(one, Mapping)
            for question, told in one.get("values", {}).items()
        ]
    for question, one in given:
        if isinstance(one, Mapping) and one.get("status", "submitted") not in _OPEN and "value" in one:
            found.setdefault(str(question), []).append((one.get("user_id"), one["value"]))
    return found


def _votes(given: list[tuple[Any, Any]], names: list[str]) -> list[dict[str, Any]] | None:
    votes = []
    for user, value in given:
        better = _better(value, names)
        if better is None:
            return None
        votes.append(vote(better, annotator=user))
    return votes


def _better(value: Any, names: list[str]) -> float | None:
    """1 if a value names the first reply, 0 the second, 0.5 for a tie; None if it says none of that."""
    if is_list(value):  # a ranking
        ranks: dict[Any, Any] = {item.get("value"): item.get("rank") for item in value if isinstance(item, Mapping)}
        if set(ranks) != set(names) or not all(isinstance(rank, int) for rank in ranks.values()):
            return None
        first, second = (ranks[name] for name in names)
        return 0.5 if first == second else float(first < second)
    if isinstance(value, str) and value.lower() in _TIES:
        return 0.5
    return {names[0]: 1.0, names[1]: 0.0}.get(value) if isinstance(value, str) else None


_LABEL_STUDIO = (
    f"which side shows which answer stands in the project's labelling configuration, not in the file; {_ROWS}"
)

_REFUSED = (
    ("Label Studio's JSON", "data annotations", _LABEL_STUDIO),
    ("Label Studio's JSON_MIN", "annotation_id lead_time", _LABEL_STUDIO),
    (
        "OpenAssistant's messages",
        "message_id text role",
        "a row is one message of a tree; join the tree to rows of prompt, replies and ranks",
    ),
    (
        "OpenAssistant's trees",
        "message_tree_id prompt",
        "a row is a tree of messages; write a row of prompt, replies and ranks for each of its prompts",
    ),
    (
        "summarize-from-feedback's axis ratings",
        "info summary",
        "a summary is rated on several axes at once; write rows of prompt, reply and rating",
    ),
    (
        "axolotl's segments",
        "segments",
        "texts that are not turns cannot be rendered with a chat template; write `messages`",
    ),
    (
        "the red-team attempts of hh-rlhf",
        "transcript rating",
        "the rating is the attacker's success, not the reply's quality; write rows of prompt, reply and rating",
    ),
)
"""Formats that are not read: their names, their keys, and what to do instead."""

TOOLS: tuple[Format, ...] = (
    Format(
        "Argilla",
        "preferences",
        "fields",
        "responses",
        "id status metadata suggestions vectors external_id _server_id inserted_at updated_at",
        lambda row: isinstance(row["fields"], Mapping),
        convert=_argilla,
    ),
    Format(
        "Label Studio's JSON_MIN",
        "preferences",
        "annotator created_at id",
        fits=lambda row: "judgements" not in row,
        refusal=_LABEL_STUDIO,
    ),
    *(Format(name, "preferences", needs, refusal=refusal) for name, needs, refusal in _REFUSED),
)
