"""What a formula reads and which settings it has: the one description of a named loss is the signature of its function.

A formula's positional parameters are what it reads, by the names that its family gives them (`weights`, `advantages`);
its keywords are its settings. A new loss is therefore one function in the table of its family: `FORMULAS` of
`policy_losses.py` (tokens) and `preference_losses.py` (pairs of replies), or a table of `reward_losses.py` (scores).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from torch import Tensor

Formula = Callable[..., Any]
Loss = tuple[Tensor, dict[str, Tensor]]
"""A sum, and metrics without gradients."""


def by_name(*formulas: Formula) -> Mapping[str, Formula]:
    """A table of formulas."""
    return {formula.__name__: formula for formula in formulas}


@cache
def inputs_of(formula: Formula) -> tuple[str, ...]:
    """What the formula reads."""
    parameters = inspect.signature(formula).parameters.values()
    return tuple(each.name for each in parameters if each.kind is not each.KEYWORD_ONLY)


@cache
def settings_of(formula: Formula) -> Mapping[str, Any]:
    """Its settings and their defaults; `inspect.Parameter.empty` for one that must be given."""
    parameters = inspect.signature(formula).parameters.values()
    return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}


def misfit(formula: Formula, given: Mapping[str, Any]) -> str | None:
    """What is wrong with settings for this formula; None if they fit."""
    known = settings_of(formula)
    listed = ", ".join(known) or "none"
    if unknown := sorted(given.keys() - known.keys()):
        return f"unknown settings {unknown}; the formula has {listed}"
    missing = [name for name, default in known.items() if default is inspect.Parameter.empty and name not in given]
    return f"the settings {missing} are missing; the formula has {listed}" if missing else None
