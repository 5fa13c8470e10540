"""The items whose people disagree most, for a team lead to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from thumbs.collect.quality.judged import OVERALL, Opinions, VoteTable

Why = Literal["opposite", "far", "both_bad", "ratings"]
"""opposite: people prefer opposite replies; far: two strengths are 5 steps or more apart; both_bad: one prefers a reply
where another finds both bad; ratings: two ratings of a reply lie further apart than half of all ratings on that axis.
"""
FAR = 5


@dataclass(frozen=True)
class Dispute:
    """An item (id), how many people judged it, in which ways they disagree, and how much: `sd` is the standard
    deviation of what they said of the same replies (n - 1; the root mean square where an item has several
    comparisons or ratings).
    """

    item: int
    n: int
    why: tuple[Why, ...]
    sd: float


def disputes(judged: VoteTable, most: int | None = None) -> list[Dispute]:
    """The items in dispute, largest deviation first, then the oldest; at most `most`."""
    why: dict[Why, np.ndarray] = {
        name: np.zeros(len(judged.items), dtype=bool) for name in ("opposite", "far", "both_bad", "ratings")
    }
    found = judged.compared[OVERALL]
    low, high, _ = _spread(found)
    units = _item_of_unit(found)
    why["opposite"][units[(low < 0) & (high > 0)]] = True
    why["far"][units[high - low >= FAR]] = True
    why["both_bad"] = _items(judged, "prefer") & _items(judged, "both_bad")
    for opinions in judged.rated.values():
        low, high, _ = _spread(opinions)
        far = 2 * (high - low) > np.ptp(opinions.value)
        why["ratings"][_item_of_unit(opinions)[far]] = True
    return _listed(judged, why, most)


def deviations(judged: VoteTable) -> np.ndarray:
    """The `sd` of each item of VoteTable.items; NaN if no two people judged the same, [I]."""
    found = [] if judged.rated else [judged.compared[OVERALL]]
    squares, freedom = np.zeros(len(judged.items)), np.zeros(len(judged.items))
    for opinions in [*found, *judged.rated.values()]:
        _, _, variance = _spread(opinions)
        known = ~np.isnan(variance)
        item = _item_of_unit(opinions)[known]
        squares += np.bincount(item, weights=variance[known], minlength=len(squares))
        freedom += np.bincount(item, minlength=len(freedom))
    return np.sqrt(np.where(freedom > 0, squares, np.nan) / np.maximum(freedom, 1))


def _listed(judged: VoteTable, why: dict[Why, np.ndarray], most: int | None) -> list[Dispute]:
    sd = deviations(judged)
    n = np.bincount(judged.item[~judged.said("skip")], minlength=len(sd))
    places = np.flatnonzero(np.any(list(why.values()), axis=0))
    order = places[np.lexsort((judged.items[places], -sd[places]))][:most]
    return [
        Dispute(int(judged.items[i]), int(n[i]), tuple(name for name in why if why[name][i]), float(sd[i]))
        for i in order
    ]


def _items(judged: VoteTable, verdict: str) -> np.ndarray:
    """Which items of real work somebody judged so, bool [I]."""
    found = np.zeros(len(judged.items), dtype=bool)
    found[judged.item[judged.work & judged.said(verdict)]] = True
    return found


def _item_of_unit(opinions: Opinions) -> np.ndarray:
    item = np.zeros(int(opinions.unit.max(initial=-1)) + 1, dtype=np.int64)
    item[opinions.unit] = opinions.item
    return item


def _spread(opinions: Opinions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lowest and highest value of each unit, and their variance (n - 1; NaN for a single one)."""
    value, unit = opinions.value, opinions.unit
    n = np.bincount(unit)
    low, high = np.full(len(n), np.iinfo(np.int64).max), np.full(len(n), np.iinfo(np.int64).min)
    np.minimum.at(low, unit, value)
    np.maximum.at(high, unit, value)
    mean = np.bincount(unit, weights=value) / n
    squares = np.bincount(unit, weights=(value - mean[unit]) ** 2)
    return low, high, np.where(n > 1, squares, np.nan) / np.maximum(n - 1, 1)
