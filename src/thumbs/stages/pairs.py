"""What stages that compare replies to one prompt have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from thumbs.records import Example, Message


class Asked(Protocol):
    """Something that answers a prompt."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The prompt's messages."""
        ...


T = TypeVar("T", bound=Asked)


def by_prompt(pairs: Sequence[T]) -> list[list[T]]:
    """Pairs of one prompt together: they share it and replies, and the engine computes once what is shared."""
    groups: dict[tuple[Message, ...], list[T]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt, []).append(pair)
    return list(groups.values())


def distinct_tokens(data: Sequence[Example]) -> int:
    """Tokens, a reply that stands in several pairs counted once, as it is computed."""
    return sum({datum.inputs.tobytes(): len(datum) for datum in data}.values())
