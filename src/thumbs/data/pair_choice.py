"""Which two of several replies people are asked about, and with what probability just these two."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from thumbs.errors import ConfigError
from thumbs.records import Reply

Active = Literal["uncertain", "disagreement"]


@dataclass(frozen=True)
class Choice:
    """Two replies by their places, and how they were chosen: policy, of (pairs there were), propensity, drawn, scores.

    propensity: the probability that the policy takes this pair. drawn: "random" or "active", which of its two ways it
    took; the pairs drawn at random are an honest sample of all pairs, and so are all pairs weighed by 1 / propensity.
    """

    places: tuple[int, int]
    chosen_by: dict[str, Any]


def usable_pairs(replies: Sequence[Reply]) -> list[tuple[int, int]]:
    """Places of replies that can be compared, neither empty nor equal; disjoint pairs come first."""
    places = sorted(itertools.combinations(range(len(replies)), 2), key=lambda ij: (ij[1] - ij[0] - 1 + ij[0] % 2, ij))
    texts = [reply.text.strip() for reply in replies]
    return [(i, j) for i, j in places if texts[i] and texts[j] and texts[i] != texts[j]]


def choose_pair(
    pairs: Sequence[tuple[int, int]], scores: np.ndarray, active: Active, random_share: float, seed: int
) -> Choice:
    """One of `pairs`: with probability `random_share` any of them, else the one that tells most.

    scores [replies, members] of a reward model, or of the members of an ensemble. uncertain: |σ(gap) - 1/2| of the mean
    score is least; disagreement: the deviation of σ(gap) over the members is largest (Christiano et al. 2017,
    arXiv:1706.03741, section 2.2.4). Of equal pairs the first. Raises ConfigError for a disagreement of one.
    """
    gaps = np.stack([scores[i] - scores[j] for i, j in pairs])
    if active == "disagreement":
        if scores.shape[1] < 2:
            raise ConfigError(
                "active=disagreement asks several reward models, and there is one; set reward_model.heads or "
                "reward_model.adapters to 2 or more, or take active=uncertain"
            )
        best = int(_sigmoid(gaps).std(axis=1).argmax())
    else:
        best = int(np.abs(gaps.mean(axis=1)).argmin())
    random = np.random.default_rng(seed)
    at_random = bool(random.random() < random_share)
    taken = int(random.integers(len(pairs))) if at_random else best
    return Choice(
        pairs[taken],
        {
            "policy": active,
            "of": len(pairs),
            "propensity": random_share / len(pairs) + (1 - random_share) * (taken == best),
            "drawn": "random" if at_random else "active",
            "scores": [[float(s) for s in scores[place]] for place in pairs[taken]],
        },
    )


def first_pair(pairs: Sequence[tuple[int, int]]) -> Choice:
    """The pair that comes first; replies that are drawn independently stand in random order, so it may be any."""
    return Choice(pairs[0], {"policy": "random", "of": len(pairs), "propensity": 1 / len(pairs), "drawn": "random"})


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
