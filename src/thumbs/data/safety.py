"""Pairs of replies of which each is safe or not: how they are read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from thumbs.data.rankings import read_reply, row_and_prompt, row_id
from thumbs.data.sources import RowError
from thumbs.records import SafetyPair

_SAFER: Mapping[object, float] = {0: 1.0, 1: 0.0, "0": 1.0, "1": 0.0, "tie": 0.5}


def read_safety(value: object, source: str = "file") -> SafetyPair:
    """Pair of one row in PKU-SafeRLHF's columns: `prompt`, `response_0`, `response_1`, `is_response_0_safe` and
    `is_response_1_safe` (true, false, or the share of judges who say so), and `safer_response_id` (0, 1 or "tie").

    Without the last one, the reply that more judges find safe is the safer one. Raises RowError for anything else.
    """
    row, prompt = row_and_prompt(value, "safety")
    first, second = (read_reply(row[key], source, key) for key in ("first", "second"))
    texts = [reply.text.strip() for reply in (first, second)]
    if not all(texts):
        raise RowError("empty_reply", "an empty reply; a pair needs two answers")
    if texts[0] == texts[1]:
        raise RowError("identical_replies", "both replies are the same; nothing can be learned from the pair")
    unsafe = 1.0 - _share(row, "is_response_0_safe"), 1.0 - _share(row, "is_response_1_safe")
    given = row.get("safer_response_id")
    if given is None:
        safer = 0.5 if unsafe[0] == unsafe[1] else float(unsafe[0] < unsafe[1])
    elif isinstance(given, str | int) and given in _SAFER:
        safer = _SAFER[given]
    else:
        raise RowError("bad_label", f"'safer_response_id' is {reprlib.repr(given)}; use 0, 1 or tie")
    return SafetyPair(row_id(row, prompt, texts), prompt, (first, second), unsafe, safer)


def _share(row: Mapping[str, Any], key: str) -> float:
    value = row[key]
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise RowError("bad_label", f"{key!r} is {reprlib.repr(value)}; use true, false, or a share from 0 to 1")
    return float(value)
