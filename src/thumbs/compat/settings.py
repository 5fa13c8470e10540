"""Settings that an older API keeps in one dataclass, checked when they are made and whenever one is assigned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from thumbs.compat import suggestion
from thumbs.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class CheckedSettings:
    """Base of dataclasses whose fields take only values of their types; text that spells a number is one.

    Raises ConfigError for a name that is no field, with the nearest one, and for a value that its field cannot have.
    """

    renamed: ClassVar[Mapping[str, str]] = {}
    """What other versions and libraries call a field → what it is called here."""
    without_effect: ClassVar[Mapping[str, str | None]] = {}
    """Other names that may be given and do nothing, with the reason where that is worth a warning."""

    def __new__(cls, *_: Any, **given: Any) -> Any:
        """Refuses unknown names before anything is made."""
        for name in given.keys() - cls.without_effect.keys():
            _type_of(cls, name)
        return super().__new__(cls)

    def __init__(self, *values: Any, **given: Any) -> None:
        """Takes values in the order of the fields or by name, of which None is as good as absent."""
        for name, value in (dict(zip(_types(type(self)), values, strict=False)) | given).items():
            if name not in self.without_effect:
                setattr(self, name, getattr(self, name) if value is None else value)
            elif value and (reason := self.without_effect[name]):
                warnings.warn(f"{type(self).__name__}({name}=…) does nothing here: {reason}", stacklevel=2)
        self.__post_init__()

    def __post_init__(self) -> None:
        """What the fields have to do with each other."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _checked(name, value, _type_of(type(self), name)))


@cache
def _types(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in fields(cls)}


def _type_of(cls: type[CheckedSettings], name: str) -> Any:
    known = _types(cls)
    if name in known:
        return known[name]
    hint = f"it is called {cls.renamed[name]!r} here" if name in cls.renamed else suggestion(name, known)
    raise ConfigError(f"{cls.__name__} has no field {name!r}; {hint}")


def _checked(name: str, value: Any, kind: Any) -> Any:
    if isinstance(value, Path):
        value = str(value)
    if getattr(value, "shape", None) == ():  # a number of numpy or torch
        value = value.item()
    if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
        raise ConfigError(f"{name}: got {value!r}; truth values are not allowed here")
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ").replace("Input", "it", 1)
        raise ConfigError(f"{name}: got {value!r}; {reason}") from None
