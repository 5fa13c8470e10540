"""Votes and items for tests of the statistics, written in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import Answer, ItemFacts, Vote

AT = datetime(2026, 1, 2, tzinfo=UTC)


def said(strength: int | str) -> Answer:
    """A pair's answer: a strength, 0 is a tie, or the name of another verdict."""
    if isinstance(strength, str):
        return Answer(strength)  # type: ignore[arg-type]
    return Answer("prefer", strength) if strength else Answer("tie")


def vote(number: int, item: int, account: int, answer: Answer, **more: Any) -> Vote:
    """A vote, the first slot shown first unless `display` says otherwise."""
    known = {"display": (0, 1), "active_ms": 60_000, "wall_ms": 60_000, "late": False, "at": AT}
    return Vote(number, f"a{number}", item, account, 1, 1, answer, **{**known, **more})


def fact(item: int, **more: Any) -> ItemFacts:
    """A pair by generators 1 and 2, 100 characters each."""
    known = {"kind": "pair", "role": "work", "generators": (1, 2), "lengths": (100, 100)}
    return ItemFacts(item, **{**known, **more})


def of_table(table: np.ndarray, **more: Any) -> VoteTable:
    """Votes of strengths [people, items], NaN if a person did not judge an item."""
    votes = [
        vote(number, int(item), int(account), said(int(table[account, item])))
        for number, (account, item) in enumerate(zip(*np.nonzero(~np.isnan(table)), strict=True))
    ]
    return VoteTable.of(votes, [fact(item, **more) for item in range(table.shape[1])])


def of_answers(answers: Sequence[tuple[int, int, Answer]], facts: Sequence[ItemFacts] | None = None) -> VoteTable:
    """Votes of (item, account, answer), in that order."""
    known = facts if facts is not None else [fact(item) for item in sorted({item for item, _, _ in answers})]
    return VoteTable.of([vote(n, item, account, answer) for n, (item, account, answer) in enumerate(answers)], known)
