"""Who says how likely a reply is to be unsafe: the gate, the probes and the constraint ask it, whoever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from thumbs.errors import RewardError
from thumbs.records import Message


class Unsafe(Protocol):
    """A cost model, a judge or a rule."""

    def probability(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """P(unsafe) in [0, 1] of each reply, given the conversation in the same place of `prompts`."""
        ...


class UnsafeByRule:
    """1 for a reply that the rule calls unsafe, else 0. rule: a function of the conversation and the reply."""

    def __init__(self, rule: Callable[[Sequence[Message], str], bool]) -> None:
        self.rule = rule

    def probability(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """1.0 or 0.0 for each reply."""
        return [float(bool(self.rule(prompt, reply))) for prompt, reply in zip(prompts, replies, strict=True)]


def ask(unsafe: Unsafe, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
    """What `unsafe` says; raises RewardError unless that is one number in [0, 1] per reply."""
    said = list(unsafe.probability(prompts, replies))
    if len(said) != len(replies):
        raise RewardError(f"{type(unsafe).__name__} gave {len(said)} probabilities for {len(replies)} replies")
    for value, reply in zip(said, replies, strict=True):
        if not 0 <= value <= 1:  # a NaN is not
            raise RewardError(f"{type(unsafe).__name__} gave {value!r} for {reply[:60]!r}; P(unsafe) is from 0 to 1")
    return said
