"""Annotators made of a known judge and known noise, so that what is learned from them can be checked."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from thumbs.errors import NonFiniteError
from thumbs.records import Judgement, Message

STRENGTH_STEPS = (0.25, 0.5, 1.0)
"""Gold differences (score units) at which strength becomes 2, 3 and 4; below the first it is 1."""


class Annotator(Protocol):
    """Who says which of two replies is better."""

    def judge(self, prompt: Sequence[Message], reply_a: str, reply_b: str, item: int, at: str) -> Judgement:
        """Verdict on the pair with number `item`, stamped `at` (ISO 8601)."""
        ...


class SimulatedAnnotator:
    """Judges pairs by a gold score, with ties and random mistakes.

    judge(prompt, reply) is the gold score. Pairs closer than `tie_below` (score units), and equal ones, are
    ties; any other verdict is turned round with probability `noise`, so no reward model can agree with more
    than 1 - noise of them. The draw depends on (seed, name, item) only, not on the order of judging.
    """

    def __init__(
        self,
        name: str,
        judge: Callable[[Sequence[Message], str], float],
        noise: float,
        tie_below: float,
        seed: int,
    ) -> None:
        self.name = name
        self._gold = judge
        self._noise = noise
        self._tie_below = tie_below
        self._seed = seed

    def judge(self, prompt: Sequence[Message], reply_a: str, reply_b: str, item: int, at: str) -> Judgement:
        """Verdict on the pair with number `item`, stamped `at` (ISO 8601; given, so that runs repeat).

        The strength is the gold difference in the steps of STRENGTH_STEPS, negative when reply_a is
        preferred. Raises NonFiniteError when the gold score of a reply is not a number.
        """
        difference = self._gold(prompt, reply_b) - self._gold(prompt, reply_a)
        if not math.isfinite(difference):
            raise NonFiniteError(f"annotator {self.name}, item {item}: the gold scores differ by {difference}")
        if difference == 0 or abs(difference) < self._tie_below:
            return Judgement(self.name, at, "tie")
        strength = 1 + bisect_right(STRENGTH_STEPS, abs(difference))
        mistaken = self._uniform(item) < self._noise
        return Judgement(self.name, at, "prefer", strength if (difference > 0) != mistaken else -strength)

    def _uniform(self, item: int) -> float:
        digest = hashlib.sha256(f"{self._seed}/{self.name}/{item}".encode("utf-8", "replace")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64
