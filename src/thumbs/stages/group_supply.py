"""Where a step's groups come from: drawn with the weights of today, or waiting from an earlier step.

Groups stand in a line, oldest first. With staleness K a step takes what was drawn K steps ago, as if sampling and
training ran side by side; a group that is older than K steps is dropped. With dynamic sampling, groups whose scores
are all equal make room for others (Yu et al. 2025, arXiv:2503.14476, eq. 11).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from thumbs.config.group import GroupConfig
from thumbs.records import Message, Rollout, Score


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
    """Plain data, from which `pending_from_json` makes the same again, bit for bit."""
    return {
        "draws": pending.draws,
        "groups": [
            {
                "step": group.step,
                "rollouts": [_rollout_as_json(rollout) for rollout in group.rollouts],
                "scores": [[score.value, dict(score.parts), score.tokens] for score in group.scores],
            }
            for group in pending.groups
        ],
    }


def pending_from_json(raw: Mapping[str, Any]) -> Pending:
    """What `pending_as_json` wrote."""
    groups = [
        ScoredGroup(
            group["step"],
            tuple(_rollout_from_json(rollout) for rollout in group["rollouts"]),
            tuple(Score(value, parts, tokens and tuple(tokens)) for value, parts, tokens in group["scores"]),
        )
        for group in raw["groups"]
    ]
    return Pending(raw["draws"], tuple(groups))


def _rollout_as_json(rollout: Rollout) -> dict[str, Any]:
    # float32 → float → text → float → float32 loses nothing.
    return {
        **rollout.__dict__,
        "tokens": rollout.tokens.tolist(),
        "mask": rollout.mask.tolist(),
        "logprobs": rollout.logprobs.tolist(),
        "messages": [[message.role, message.content] for message in rollout.messages],
        "rewards": None if rollout.rewards is None else rollout.rewards.tolist(),
    }


def _rollout_from_json(raw: Mapping[str, Any]) -> Rollout:
    arrays = {name: np.array(raw[name], dtype=np.float32) for name in ("mask", "logprobs")}
    return Rollout(
        **{
            **raw,
            **arrays,
            "tokens": np.array(raw["tokens"], dtype=np.int64),
            "messages": tuple(Message(role, content) for role, content in raw["messages"]),
            "rewards": None if raw["rewards"] is None else np.array(raw["rewards"], dtype=np.float32),
        }
    )
