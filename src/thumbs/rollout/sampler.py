"""What can be sampled from: the one seam between rollouts and whatever makes tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from thumbs.records import Sample


@dataclass(frozen=True)
class DecodingParams:
    """How to draw: in tokens, so that samplers know nothing of text.

    stop_tokens end a reply and are kept in it. Each request carries its own seed, so a reply does not depend on
    what else is in the batch. `stop_strings` need `decode`; the token that completes one is kept whole,
    so a reply's tokens may say more than its text does.
    """

    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()


class Sampler(Protocol):
    """A frozen set of weights to draw from; comes only from `engine.snapshot`."""

    policy_version: int

    def sample(self, prompts: Sequence[Sequence[int]], params: DecodingParams, seeds: Sequence[int]) -> list[Sample]:
        """One sample a prompt, in order; seeds[i] fixes the draw of prompts[i]."""
        ...
