"""Rows as other libraries keep them, in the shapes that our readers know; a row that is none of these stays itself.

Read here: LLaMA-Factory's alpaca and sharegpt rows (system, history, pairs), OpenRLHF's input and output, and the
comparisons of the Tinker cookbook. TRL's shapes are those of the readers themselves.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from thumbs.data.sources import RowError

_LABELS = {"A": 1, "B": 0, "Tie": 0.5}


def known_shape(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with `prompt` and its answers under the names that we use.

    Raises RowError for a comparison or a history that is not what its name says.
    """
    if row.get("comparison") is not None:
        return _comparison(row)
    if row.get("instruction") is not None and (_has_pair(row) or row.get("history") or row.get("system")):
        return _rest(row) | {"prompt": _instruction_prompt(row)} | _renamed(row, "output", "completion")
    if row.get("conversations") is not None and _has_pair(row):
        sides = {key: [row[key]] if isinstance(row[key], Mapping) else row[key] for key in ("chosen", "rejected")}
        return _rest(row) | {"prompt": _with_system(row, row["conversations"])} | sides
    for key in ("messages", "conversations"):
        if row.get(key) is not None and row.get("system"):
            return {**row, key: _with_system(row, row[key]), "system": None}
    if row.get("input") is not None and row.get("instruction") is None and row.get("prompt") is None:
        return _rest(row) | {"prompt": row["input"]} | _renamed(row, "output", "completion")
    return row


def _comparison(row: Mapping[str, Any]) -> dict[str, Any]:
    """{"comparison": {prompt_conversation, completion_A, completion_B}, "label": "A", "B" or "Tie"}."""
    sides, label = row["comparison"], row.get("label")
    if not isinstance(sides, Mapping):
        raise RowError("not_an_object", f"'comparison' must be an object, got {type(sides).__name__}")
    for key in ("prompt_conversation", "completion_A", "completion_B"):
        if sides.get(key) is None:
            raise RowError("missing_field", f"a comparison without {key!r}")
    if not isinstance(label, str) or label not in _LABELS:
        raise RowError("bad_label", f"label {reprlib.repr(label)}; use one of {', '.join(_LABELS)}")
    answers = {"chosen": sides["completion_A"], "rejected": sides["completion_B"]}
    return {**row, "comparison": None, "prompt": sides["prompt_conversation"], **answers, "label": _LABELS[label]}


def _instruction_prompt(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages of LLaMA-Factory's system, history of [question, answer], instruction and input."""
    messages = []
    for turn in row.get("history") or ():
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise RowError("missing_field", f"'history' holds [question, answer] pairs, got {reprlib.repr(turn)}")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    question = "\n\n".join(str(part) for part in (row["instruction"], row.get("input")) if part)
    return _with_system(row, [*messages, {"role": "user", "content": question}])


def _with_system(row: Mapping[str, Any], messages: Any) -> Any:
    if not row.get("system") or not isinstance(messages, list):
        return messages
    return [{"role": "system", "content": row["system"]}, *messages]


def _has_pair(row: Mapping[str, Any]) -> bool:
    return row.get("chosen") is not None and row.get("rejected") is not None


def _renamed(row: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    return {} if row.get(old) is None else {new: row[old]}


def _rest(row: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside, such as margins and ids."""
    gone = ("instruction", "input", "output", "history", "system", "conversations")
    return {key: value for key, value in row.items() if key not in gone}
