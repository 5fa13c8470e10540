"""What a method is: a preset of a family, with its source. Each family lists its own beside its settings."""

from __future__ import annotations

from dataclasses import dataclass


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
