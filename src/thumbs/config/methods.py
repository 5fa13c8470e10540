"""What a method is: a preset of a family, with its source. Each family lists its own next to its settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from thumbs.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """A preset of a family of methods.

    name: as in `method=`; title: what people call it; source: paper (arXiv number) and equation; difference: in a
    line, what sets it apart within its family.
    """

    name: str
    title: str
    source: str
    difference: str


M = TypeVar("M", bound=Method)


def preset(name: str, methods: Mapping[str, M]) -> M:
    """The method of this name; raises ConfigError that names the nearest one, and all."""
    if name in methods:
        return methods[name]
    close = difflib.get_close_matches(name, methods, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(f"no method {name!r}; {hint}the methods are {', '.join(methods)}")
