"""Reward functions that tests name in a config."""

from __future__ import annotations

from thumbs.records import Rollout


def brevity(rollout: Rollout) -> float:
    """Minus the length in tokens."""
    return -float(rollout.reply_length)


def by_token(rollout: Rollout) -> list[float]:
    """The parity of each token that was sampled."""
    return [float(token % 2) for token in rollout.tokens[rollout.prompt_length :]]


NUMBER = 3
