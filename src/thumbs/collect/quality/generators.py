"""Which generator writes the better replies: strengths, ranks, win matrix.

Bradley–Terry (1952, Biometrika 39, p. 324): P(g beats h) = σ(θ_g - θ_h), fitted by maximum likelihood to all
comparisons of replies by two generators, those that rankings and ratings imply among them. A tie, or both_bad, is half
a win for each. Each generator also ties once with an imagined one of strength 0, so that the strength of one which
never lost is finite; it draws strengths together as much as one judgement each would.

Elo scale: 1000 + 400 / ln 10 · (θ - mean θ): 400 more are odds of ten to one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import OVERALL, VoteTable

ELO_MEAN = 1000.0
ELO_PER_NAT = 400 / math.log(10)
ELO_K = 16.0
"""Points that a game moves at most, in the online count."""
_Z = 1.959963984540054


@dataclass(frozen=True)
class GeneratorRank:
    """One generator (id). strength: on the Elo scale, n its comparisons with others; best_rank … worst_rank: where it
    may stand, counting as ahead or behind only those from which it is separated; next_separated: whether it is
    separated from the one listed below it; group: generators that were never compared, not even through others, are of
    different groups, and their strengths cannot be compared; online: Elo as counted game by game.
    """

    generator: int
    strength: Estimate
    best_rank: int
    worst_rank: int
    next_separated: bool
    group: int
    online: float


@dataclass(frozen=True, eq=False)
class WinMatrix:
    """generators: ids, ascending; wins [G, G]: how often the row beat the column, a tie counting half for each."""

    generators: tuple[int, ...]
    wins: np.ndarray

    @property
    def n(self) -> np.ndarray:
        """Comparisons of each two, [G, G]."""
        return self.wins + self.wins.T

    def share(self, row: int, column: int) -> Estimate:
        """Share of their comparisons that the generator in that row wins, with Wilson's interval, which takes each for
        an independent one.
        """
        return share(float(self.wins[row, column]), round(float(self.n[row, column])))


def win_matrix(judged: VoteTable, axis: str = OVERALL) -> WinMatrix:
    """Who beat whom, on an axis or overall."""
    games = _Games.of(judged, axis)
    return WinMatrix(tuple(int(one) for one in games.ids), games.wins())


def leaderboard(judged: VoteTable, axis: str = OVERALL, *, resamples: int = 500, seed: int = 0) -> list[GeneratorRank]:
    """Generators that were compared with others, strongest first.

    Intervals, of strengths and of differences, are percentiles of a bootstrap over items, stretched to ± 1.96 standard
    errors of the fit where that is further: resamples of what never lost never lose, and would look certain. Two are
    separated when the interval of their difference leaves out 0, in one group; many such looks are not corrected for.
    """
    games = _Games.of(judged, axis)
    if not len(games.ids):
        return []
    wins = games.wins()
    draws = np.stack([games.wins(weights) for weights in games.resamples(resamples, seed)])
    fitted, covariance = _centred(wins[None])
    drawn = _centred(draws)[0]
    low, high = _interval(fitted[0], np.sqrt(np.diagonal(covariance[0])), drawn)
    group = connected_components(wins + wins.T, directed=False)[1]
    ahead = _ahead(fitted[0], covariance[0], drawn) & (group[:, None] == group[None, :])
    played, online = np.rint((wins + wins.T).sum(1)), games.elo()
    order = np.lexsort((games.ids, -fitted[0]))
    standings = []
    for place, g in enumerate(order):
        value, least, most = (ELO_MEAN + ELO_PER_NAT * float(theta[g]) for theta in (fitted[0], low, high))
        after = order[place + 1] if place + 1 < len(order) else g
        standings.append(
            GeneratorRank(
                generator=int(games.ids[g]),
                strength=Estimate(value, least, most, int(played[g])),
                best_rank=1 + int(ahead[:, g].sum()),
                worst_rank=len(order) - int(ahead[g].sum()),
                next_separated=bool(ahead[g, after]),
                group=int(group[g]),
                online=float(online[g]),
            )
        )
    return standings


def bradley_terry(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ [B, G] of B win matrices [B, G, G], with its covariance [B, G, G], the inverse of the Hessian; by Newton's
    method. No step is longer than 1/2: no difference then moves by more than 1, no curvature grows by more than the
    factor e, and every step makes the likelihood larger.
    """
    # Not choix, which is the oracle: it fits one matrix at a time, and a page waits for 500 resamples.
    theta = np.zeros(wins.shape[:2])
    n = wins + wins.swapaxes(1, 2)
    won = wins.sum(2) + 0.5
    for _ in range(1000):
        p, alone = expit(theta[:, :, None] - theta[:, None, :]), expit(theta)
        gradient = won - (n * p).sum(2) - alone
        step = np.linalg.solve(_hessian(n, theta), gradient[..., None])[..., 0]
        theta += step / np.maximum(1, 2 * np.abs(step).max(1, keepdims=True))
        if np.abs(step).max() < 1e-8:
            break
    return theta, np.linalg.inv(_hessian(n, theta))


def _hessian(n: np.ndarray, theta: np.ndarray) -> np.ndarray:
    p, alone = expit(theta[:, :, None] - theta[:, None, :]), expit(theta)
    curve = n * p * (1 - p)
    return np.eye(n.shape[1]) * (curve.sum(2) + alone * (1 - alone))[:, None, :] - curve


def _centred(wins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """θ less its mean, and the covariance of that."""
    theta, covariance = bradley_terry(wins)
    centre = np.eye(wins.shape[1]) - 1 / wins.shape[1]
    return theta - theta.mean(1, keepdims=True), centre @ covariance @ centre


def _interval(value: np.ndarray, error: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return np.minimum(low, value - _Z * error), np.maximum(high, value + _Z * error)


def _ahead(theta: np.ndarray, covariance: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Whether the row is separated from, and stronger than, the column, bool [G, G]."""
    own = np.diagonal(covariance)
    ahead = np.zeros(covariance.shape, dtype=bool)
    for g in range(len(theta)):
        error = np.sqrt(np.maximum(own[g] + own - 2 * covariance[g], 0))
        ahead[g] = _interval(theta[g] - theta, error, drawn[:, g : g + 1] - drawn)[0] > 0
    return ahead


@dataclass(frozen=True, eq=False)
class _Games:
    """Comparisons of different generators. ids: theirs, ascending; of each game, oldest judgement first: item (from 0),
    first, second (places in ids), won (by the first: 1, 0.5, 0).
    """

    ids: np.ndarray
    item: np.ndarray
    first: np.ndarray
    second: np.ndarray
    won: np.ndarray

    @staticmethod
    def of(judged: VoteTable, axis: str) -> _Games:
        found = judged.compared[axis]
        kept = np.flatnonzero(found.generators[:, 0] != found.generators[:, 1])
        kept = kept[np.argsort(judged.judgement[found.vote[kept]], kind="stable")]
        ids, players = np.unique(found.generators[kept], return_inverse=True)
        players = players.reshape(-1, 2)
        _, item = np.unique(found.item[kept], return_inverse=True)
        return _Games(ids, item, players[:, 0], players[:, 1], (1 - np.sign(found.value[kept])) / 2)

    def wins(self, weights: np.ndarray | None = None) -> np.ndarray:
        """The win matrix [G, G], with items counted as often as `weights` [I] says."""
        each = 1.0 if weights is None else weights[self.item]
        g = len(self.ids)
        cell, turned = self.first * g + self.second, self.second * g + self.first
        wins = np.bincount(cell, weights=each * self.won, minlength=g * g)
        return (wins + np.bincount(turned, weights=each * (1 - self.won), minlength=g * g)).reshape(g, g)

    def resamples(self, n: int, seed: int) -> Iterator[np.ndarray]:
        """How often each item is drawn in each of n resamples."""
        rng, items = np.random.default_rng(seed), int(self.item.max()) + 1
        for _ in range(n):
            yield np.bincount(rng.integers(0, items, items), minlength=items)

    def elo(self) -> np.ndarray:
        """Elo's count [G], from 1000 each, K = ELO_K, judgement by judgement in the order in which they were given, and
        so depending on it; given next to Bradley–Terry because people know it.
        """
        points = [ELO_MEAN] * len(self.ids)
        for first, second, won in zip(self.first.tolist(), self.second.tolist(), self.won.tolist(), strict=True):
            gain = ELO_K * (won - 1 / (1 + 10 ** ((points[second] - points[first]) / 400)))
            points[first] += gain
            points[second] -= gain
        return np.array(points)
