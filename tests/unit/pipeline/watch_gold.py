"""A gold of tests."""

from __future__ import annotations

from thumbs.records import Rollout


def letters(rollout: Rollout) -> float:
    """How many letters a reply has."""
    return float(sum(letter.isalpha() for letter in rollout.text))
