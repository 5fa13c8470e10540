"""The keys of the annotator's page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Key:
    """A line of the table that drives keys, buttons and the help. does: what the script calls the action;
    kinds: of tasks that have it, empty: all.
    """

    shown: str
    does: str
    kinds: tuple[str, ...] = ()


_PAIR = ("pair", "chat")
KEYS = (
    Key("1–8", "strength", _PAIR),
    Key("0–9", "number", ("rank", "rate")),
    Key("T", "tie", _PAIR),
    Key("B", "both_bad", _PAIR),
    Key("⏎", "submit"),
    Key("S", "skip"),
    Key("U", "undo"),
    Key("E", "write"),
    Key("R", "raw"),
    Key("D", "diff", _PAIR),
    Key("G", "guidelines"),
    Key("?", "help"),
)
