"""Where a step's groups come from: drawn with the weights of today, or waiting from an earlier step.

Groups stand in a line, oldest first. With staleness K a step takes what was drawn K steps ago, as if sampling and
training ran side by side; a group that is older than K steps is dropped. With dynamic sampling, groups whose scores
are all equal make room for others (Yu et al. 2025, arXiv:2503.14476, eq. 11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from thumbs.config.group import GroupConfig
from thumbs.records import Message, Rollout, Score
from thumbs.tracking.files import plain


@dataclass(frozen=True, eq=False)
class ScoredGroup:
    """Replies to one prompt with their scores; step: the one whose weights sampled them."""

    step: int
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]

    @property
    def has_signal(self) -> bool:
        """Whether some reply is better than another."""
        return len({score.value for score in self.scores}) > 1


@dataclass(frozen=True, eq=False)
class Pending:
    """How many batches of prompts were drawn so far, and the groups that wait, oldest first."""

    draws: int
    groups: tuple[ScoredGroup, ...] = ()


@dataclass(frozen=True, eq=False)
class GroupSupply:
    """The groups of a step, what waits for the next ones, batches drawn again, and groups dropped as too old."""

    groups: tuple[ScoredGroup, ...]
    pending: Pending
    redraws: int
    dropped: int


def supply(draw: Callable[[int], list[ScoredGroup]], pending: Pending, number: int, config: GroupConfig) -> GroupSupply:
    """Draws what step `number` adds to the line, and takes its groups from the front.

    `draw(k)` samples and scores batch k of the prompts with the weights of now. The first step draws for itself and
    for the `staleness` steps after it.
    """
    line, draws = list(pending.groups), pending.draws
    asked = 1 + (config.staleness if number == 0 else 0)
    for _ in range(asked):
        drawn, draws = _draw_with_signal(draw, draws, config.chosen().dynamic_sampling)
        line += drawn
    size = config.batch_size // config.group_size
    fresh = tuple(group for group in line[size:] if number + 1 - group.step <= config.staleness)
    dropped = len(line[size:]) - len(fresh)
    return GroupSupply(tuple(line[:size]), Pending(draws, fresh), draws - pending.draws - asked, dropped)


def _draw_with_signal(draw: Callable[[int], list[ScoredGroup]], draws: int, more: int) -> tuple[list[ScoredGroup], int]:
    """One batch of groups and the number of the next draw; those without signal replaced from up to `more` batches.

    Where these bring too few, some without signal stay.
    """
    found, draws = draw(draws), draws + 1
    if not more:
        return found, draws
    kept = [group for group in found if group.has_signal]
    flat = [group for group in found if not group.has_signal]
    for _ in range(more):
        if len(kept) >= len(found):
            break
        kept, draws = kept + [group for group in draw(draws) if group.has_signal], draws + 1
    return kept + flat[: max(len(found) - len(kept), 0)], draws


def pending_as_json(pending: Pending) -> dict[str, Any]:
    """Plain data, from which `pending_from_json` makes the same again: float32 → text → float32 loses nothing."""
    return plain(asdict(pending))


def pending_from_json(raw: Mapping[str, Any]) -> Pending:
    """What `pending_as_json` wrote."""
    return Pending(raw["draws"], tuple(_group(group) for group in raw["groups"]))


def _group(raw: Mapping[str, Any]) -> ScoredGroup:
    scores = (Score(**{**each, "tokens": each["tokens"] and tuple(each["tokens"])}) for each in raw["scores"])
    return ScoredGroup(raw["step"], tuple(map(_rollout, raw["rollouts"])), tuple(scores))


def _rollout(raw: Mapping[str, Any]) -> Rollout:
    arrays = {
        name: np.array(raw[name], np.float32) for name in ("mask", "logprobs", "rewards") if raw[name] is not None
    }
    messages = tuple(Message(**message) for message in raw["messages"])
    return Rollout(**{**raw, **arrays, "tokens": np.array(raw["tokens"], np.int64), "messages": messages})
