"""Files that are not laid out as one JSON value per line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import IO, Any

_CONTAINERS = ("data", "train", "test", "validation", "rows", "examples", "instances", "items", "records", "results")
_WHOLE = 64 * 2**20


def other_layout(opened: Callable[[], IO[bytes]], longest: int) -> str:
    """How a file of JSON lines is laid out instead, in words that say what to do; empty if its first line may be a row.

    opened: opens the file; longest: bytes that a line may have.
    """
    with opened() as stream:
        first = next((line for line in iter(lambda: stream.readline(longest), b"") if line.strip()), b"")
    try:
        value = json.loads(first.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        if first.strip() not in (b"{", b"[", b"\xef\xbb\xbf{", b"\xef\xbb\xbf["):
            return ""
        with opened() as stream:
            whole = stream.read(_WHOLE)  # what is larger ends too early, which is not a JSON
        try:
            value = json.loads(whole.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return "JSON values over several lines; write one value per line, or one list in a .json file"
        if isinstance(value, dict) and not _container(value):
            return "one object over several lines; write one object per line, or a list of objects in a .json file"
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return f"one list of {len(value)} objects; name the file .json, or write one object per line"
    if isinstance(value, dict) and (key := _container(value)):
        return f"one object whose {key!r} holds the {len(value[key])} rows; write that list alone into a .json file"
    return ""


def _container(value: dict[str, Any]) -> str:
    """The key of an object that holds all rows of a file; empty if there is none."""
    lists = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
    return next((key for key in lists if key.lower() in _CONTAINERS), "")
