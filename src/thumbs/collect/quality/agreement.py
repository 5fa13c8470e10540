"""How far people say the same of the same replies.

Krippendorff's α = 1 - D_o / D_e, D_o = Σ_ck o_ck δ²_ck / n, D_e = Σ_ck n_c n_k δ²_ck / (n (n - 1)): o is the matrix of
coincidences, to which a unit with m ≥ 2 opinions adds (pairs of opinions c, k) / (m - 1); n_c are its row sums, n its
sum (Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011). δ² is 1 where c ≠ k (nominal), or
(Σ_{g=c..k} n_g - (n_c + n_k) / 2)² (ordinal). 1: all agree; 0: no more than by chance.

Fleiss' κ = (P - P_e) / (1 - P_e): P is the mean over units of Σ_c r_c (r_c - 1) / (m (m - 1)), where r_c of a unit's m
opinions say c; P_e = Σ_c π_c², π_c the mean over units of r_c / m. With the same m everywhere that is Fleiss 1971,
Psychological Bulletin 76, p. 378; for others it is the generalisation of Gwet 2014, Handbook of Inter-Rater
Reliability, chapter 2, but that units with one opinion, which he counts in π, are left out of everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from thumbs.collect.quality.estimate import Estimate, bootstrapped
from thumbs.collect.quality.judged import OVERALL, Opinions, VoteTable

SIDES = np.array([-1, 0, 1])
"""The first reply is better, neither, the second."""


@dataclass(frozen=True)
class Agreement:
    """Agreement on one axis; every n is the number of items that two or more people judged.

    alpha: ordinal, over strengths -4 … 4 with tie and both_bad as 0, over -1, 0, 1 of replies ranked, or over the
    numbers of replies rated. alpha_sign, kappa: nominal over first better, neither, second better. same: of two people
    who both prefer one of the same two replies, the share who prefer the same one, an item weighing as many as its
    opinions. Intervals resample items, so that what one item brings (six pairs of four ranked replies, say) stays
    together.
    """

    items: int
    opinions: int
    alpha: Estimate
    alpha_sign: Estimate
    kappa: Estimate
    same: Estimate


@dataclass(frozen=True, eq=False)
class Sums:
    """What the statistics need of all units together, or of each of B resamples of them: coincidences [..., C, C];
    portions Σ r_c / m [..., C]; agreed Σ of the shares of pairs of opinions that agree, and units, [...].
    """

    coincidences: np.ndarray
    portions: np.ndarray
    agreed: np.ndarray
    units: np.ndarray

    @staticmethod
    def read(rows: np.ndarray, categories: int) -> Sums:
        """Of flat rows [..., C² + C + 2]."""
        square = categories * categories
        coincidences = rows[..., :square].reshape(*rows.shape[:-1], categories, categories)
        return Sums(coincidences, rows[..., square : square + categories], rows[..., -2], rows[..., -1])


def agreement(judged: VoteTable, axis: str = OVERALL, *, resamples: int = 500, seed: int = 0) -> Agreement:
    """Agreement on an axis, or on the question itself; all unknown where nobody judged what another did."""
    compared, rated = judged.compared.get(axis), judged.rated.get(axis)
    signs = None if compared is None else _read(compared, np.sign(compared.value), SIDES, resamples, seed)
    scale = rated if rated is not None else compared
    full = None if scale is None else _read(scale, scale.value, np.unique(scale.value), resamples, seed)
    seen = full or signs
    return Agreement(
        items=seen.items if seen else 0,
        opinions=seen.opinions if seen else 0,
        alpha=_estimate(full, alpha_ordinal),
        alpha_sign=_estimate(signs, alpha_nominal),
        kappa=_estimate(signs, fleiss_kappa),
        same=_estimate(signs, _same_side),
    )


def by_axis(judged: VoteTable, *, resamples: int = 500, seed: int = 0) -> dict[str, Agreement]:
    """Agreement on each axis that somebody used, the question itself apart."""
    axes = [axis for axis in {**judged.compared, **judged.rated} if axis != OVERALL]
    return {axis: agreement(judged, axis, resamples=resamples, seed=seed) for axis in axes}


def alpha_ordinal(sums: Sums) -> np.ndarray:
    """Krippendorff's α of categories in ascending order, [...]; NaN if nobody could have disagreed."""
    n = sums.coincidences.sum(-1)
    middle = np.cumsum(n, -1) - n / 2  # the sum in the formula is the way from one category's middle to the other's
    return _alpha(sums.coincidences, n, (middle[..., :, None] - middle[..., None, :]) ** 2)


def alpha_nominal(sums: Sums) -> np.ndarray:
    """Krippendorff's α of categories without order, [...]; NaN if nobody could have disagreed."""
    n = sums.coincidences.sum(-1)
    return _alpha(sums.coincidences, n, 1 - np.eye(n.shape[-1]))


def fleiss_kappa(sums: Sums) -> np.ndarray:
    """Fleiss' κ, [...]; NaN if all opinions are the same."""
    observed = sums.agreed / sums.units
    expected = ((sums.portions / sums.units[..., None]) ** 2).sum(-1)
    return _ratio(observed - expected, 1 - expected, 1e-12)


def counted(opinions: Opinions, value: np.ndarray, categories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many opinions on each unit say each category, int64 [U, C], and the item of each unit [U]."""
    units, wide = int(opinions.unit.max(initial=-1)) + 1, len(categories)
    cell = opinions.unit * wide + np.searchsorted(categories, value)
    item = np.zeros(units, dtype=np.int64)
    item[opinions.unit] = opinions.item
    return np.bincount(cell, minlength=units * wide).reshape(units, wide), item


def coincidences(counts: np.ndarray) -> np.ndarray:
    """What units with these counts [Q, C] add to the matrix of coincidences, [Q, C, C]; nothing with one opinion."""
    others = np.maximum(counts.sum(1) - 1, 1)[:, None, None]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    return pairs / others


def pooled_coincidences(counts: np.ndarray) -> np.ndarray:
    """What units with these counts [U, C] add together, [C, C]; `coincidences` summed, without an array as large."""
    weighed = counts / np.maximum(counts.sum(1, keepdims=True) - 1, 1)
    return weighed.T @ counts - np.diag(weighed.sum(0))


@dataclass(frozen=True, eq=False)
class _Read:
    items: int
    opinions: int
    whole: Sums
    draws: Sums


def _read(opinions: Opinions, value: np.ndarray, categories: np.ndarray, resamples: int, seed: int) -> _Read | None:
    """The sums over units with two opinions or more, and over resamples of the items; None without such a unit."""
    counts, item = counted(opinions, value, categories)
    several = counts.sum(1) > 1
    counts, item = counts[several], item[several]
    if not len(counts):
        return None
    # Not krippendorff, which reads all opinions for each α: of a million judgements 500 resamples would take hours.
    # Here they are read once, into sums of items; that library is the oracle of a single α.
    rows, times = np.unique(_of_items(counts, item), axis=0, return_counts=True)
    items, rng = int(times.sum()), np.random.default_rng(seed)
    # Items with the same sums are of one kind: to resample items is to draw how many come of each kind.
    draws = np.stack([rng.multinomial(items, times / items) @ rows for _ in range(resamples)])
    whole = times @ rows
    return _Read(items, int(counts.sum()), Sums.read(whole, len(categories)), Sums.read(draws, len(categories)))


def _of_items(counts: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Flat sums [I, C² + C + 2] over the units of each item."""
    m = counts.sum(1, keepdims=True)
    pairs = coincidences(counts)
    agreed = np.einsum("ucc->u", pairs)[:, None] / m
    flat = np.concatenate([pairs.reshape(len(pairs), -1), counts / m, agreed, np.ones_like(agreed)], axis=1)
    _, place = np.unique(item, return_inverse=True)
    rows = np.zeros((place.max() + 1, flat.shape[1]))
    np.add.at(rows, place, flat)
    return rows


def _alpha(pairs: np.ndarray, n: np.ndarray, distance: np.ndarray) -> np.ndarray:
    total = n.sum(-1)
    observed = (pairs * distance).sum((-2, -1))
    expected = (n[..., :, None] * n[..., None, :] * distance).sum((-2, -1))
    return 1 - _ratio((total - 1) * observed, expected)


def _same_side(sums: Sums) -> np.ndarray:
    o = sums.coincidences
    same = o[..., 0, 0] + o[..., 2, 2]
    return _ratio(same, same + 2 * o[..., 0, 2])


def _ratio(above: np.ndarray, below: np.ndarray, least: float = 0.0) -> np.ndarray:
    """above / below; NaN if below is not above `least`."""
    known = below > least
    return np.where(known, above, np.nan) / np.where(known, below, 1.0)


def _estimate(read: _Read | None, statistic: Callable[[Sums], np.ndarray]) -> Estimate:
    if read is None:
        return Estimate(None, None, None, 0)
    return bootstrapped(float(statistic(read.whole)), statistic(read.draws), read.items)
