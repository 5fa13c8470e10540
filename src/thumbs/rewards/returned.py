"""What a reward function gave, as numbers; whatever is none is named with the function and the reply."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np

from thumbs.errors import RewardError
from thumbs.records import Rollout

LARGEST = 1e15
"""Scores beyond it overflow in training: their squares are summed in float32."""


def reply_place(name: str, number: int, rollout: Rollout) -> str:
    """How an error names the function and the reply."""
    return f"reward {name}: rollout {number} (prompt {rollout.prompt_id}, reply {rollout.text[:80]!r})"


def as_numbers(given: Any, where: str, wanted: str) -> np.ndarray:
    """`given` as float64; raises RewardError for text, complex numbers, objects, NaN, ±∞ and what is too large."""
    if _is_tensor(given):
        given = given.detach().cpu().double().numpy() if given.numel() else np.zeros(tuple(given.shape))
    try:
        kept = np.asarray(given)
        if kept.dtype.kind not in "biuf" and not _holds_numbers(given):
            raise TypeError
        found = np.asarray(given, dtype=np.float64)
    except OverflowError:
        raise RewardError(f"{where} got a number that is too large for a float; give {wanted}") from None
    except (TypeError, ValueError):
        raise RewardError(f"{where} got {shown(given)}; give {wanted}") from None
    if not np.isfinite(found).all():
        raise RewardError(f"{where} got {found.tolist()}, which is not a finite number")
    for value in found.ravel().tolist():
        check_size(value, where)
    return found


def as_items(given: Any) -> Sequence[Any] | None:
    """The entries of a list, tuple, array or tensor with one dimension or more; None for anything else."""
    if _is_tensor(given):
        given = given.detach().cpu().float().numpy()
    if isinstance(given, np.ndarray):
        return list(given) if given.ndim else None
    return given if isinstance(given, list | tuple) else None


def check_size(value: float, where: str, what: str = "") -> None:
    """Raises RewardError for a number that training could not add up."""
    if not math.isfinite(value) or abs(value) > LARGEST:
        raise RewardError(
            f"{where} got {what}{value:g}; scores beyond ±{LARGEST:g} overflow in training: scale them down"
        )


def shown(given: Any) -> str:
    """A value as an error shows it."""
    text = repr(given)
    return f"{text[:80]}{'…' if len(text) > 80 else ''} ({type(given).__name__})"


def _holds_numbers(given: Any) -> bool:
    """Whether a value, or each in a list, is a number that NumPy keeps as an object: a large int, Decimal, Fraction."""
    values = given if isinstance(given, list | tuple) else [given]
    return bool(values) and all(
        hasattr(value, "__float__") and not isinstance(value, str | bytes | complex | np.generic | np.ndarray)
        for value in values
    )


def _is_tensor(given: Any) -> TypeGuard[Any]:
    return type(given).__module__.partition(".")[0] == "torch" and hasattr(given, "detach")
