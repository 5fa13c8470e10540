"""The labels of a run, and on which side of the line between training and held-out each one falls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from thumbs.config.labels import LabelsConfig
from thumbs.config.pipeline import place
from thumbs.data.preferences import PREFERENCES, PreferenceStore
from thumbs.data.splits import is_heldout, split_fault
from thumbs.errors import DataError
from thumbs.records import Message, Preference

T = TypeVar("T")


def labels_of(run: Path, iteration: int) -> list[Preference]:
    """The preferences of one iteration; from the second on their ids end in @2, @3, as prompts come again."""
    rows = PreferenceStore(run / place("labels", iteration) / PREFERENCES).load()
    return rows if iteration == 1 else [replace(row, id=f"{row.id}@{iteration}") for row in rows]


def labels_until(run: Path, iteration: int) -> list[Preference]:
    """The preferences that an iteration learns from: its own and those of the iterations before."""
    return [row for i in range(1, iteration + 1) for row in labels_of(run, i)]


def heldout_share(source: LabelsConfig) -> float:
    """Fraction of the prompts whose pairs are held out."""
    data = source.data or source.prompts
    return data.holdout if data is not None else 0.1


def checked_split(
    rows: Sequence[T], prompt_of: Callable[[T], Sequence[Message]], fraction: float, name: str
) -> tuple[list[T], list[T]]:
    """As split; raises DataError if a side that is to have rows has none. name: the setting that the rows are of."""
    train, held = split(rows, prompt_of, fraction)
    if fault := split_fault(name, len(train), len(held), fraction):
        raise DataError(fault)
    return train, held


def split(rows: Sequence[T], prompt_of: Callable[[T], Sequence[Message]], fraction: float) -> tuple[list[T], list[T]]:
    """(training, held-out) rows, by a hash of the prompt."""
    held = [is_heldout(prompt_of(row), fraction) for row in rows]
    return [row for row, h in zip(rows, held, strict=True) if not h], [
        row for row, h in zip(rows, held, strict=True) if h
    ]
