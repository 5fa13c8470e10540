"""The two kinds of records: what a user writes, and what a service answers."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict


class Request(BaseModel):
    """Written by users: frozen, and an unknown field is an error, so that a typing mistake shows at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Response(BaseModel):
    """Answered by a service: frozen, and unknown fields are dropped, so that a newer service can say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Owner:
    """A frozen dataclass that keeps copies of the lists, mappings and arrays that it is given: what happens to them
    later is unimportant, as with the SDK's types.
    """

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            object.__setattr__(self, field.name, owned(getattr(self, field.name)))


def owned(value: Any) -> Any:
    """Lists, mappings and arrays as copies, with copies inside; everything else as it is."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return copy.copy(value) if _plain(value) else type(value)(owned(item) for item in value)
    return value


def _plain(items: list[Any] | tuple[Any, ...]) -> bool:
    return not any(isinstance(item, (list, tuple, dict, np.ndarray)) for item in items)
