"""What moves people other than quality: where a reply was shown, and how long it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import binomtest
from scipy.stats import t as student

from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import OVERALL, Comparisons, VoteTable

UNIT_CHARS = 100
"""Characters that the odds of a longer reply are told for."""
_MOST_LOG_ODDS = 700.0
"""Beyond it exp() has no number: the lengths hardly differ, and nothing is known."""


@dataclass(frozen=True)
class PositionBias:
    """first: share of judgements that prefer the reply shown first (left, or on top) to the one shown last, among those
    that prefer one of the two, with Wilson's interval; p: exact two-sided binomial test of one half, None without any.

    The order is drawn anew for each person and item, so that without such a bias these are throws of a fair coin,
    whatever the replies are like and however many people judge one item.
    """

    first: Estimate
    p: float | None


@dataclass(frozen=True)
class LengthBias:
    """How far people choose the longer of two replies. That may be taste or sense: longer replies may be better.

    longer: among items where more people chose one, the share where it is the longer one (Wilson); p: exact two-sided
    binomial test of one half, which is McNemar's test (1947, Psychometrika 12, p. 153) with items as pairs, None
    without such items. Items, for people who judge the same replies are not independent witnesses.
    odds: the factor by which 100 more characters multiply the odds of being chosen; None if the longer one was
    always chosen, or never.
    """

    longer: Estimate
    p: float | None
    odds: Estimate


def position(judged: VoteTable) -> PositionBias:
    """Position bias of all people together; `annotators` has it for each."""
    first, preferred = (int(which.sum()) for which in shown_first(judged.compared[OVERALL]))
    return PositionBias(share(first, preferred), fair_coin(first, preferred))


def shown_first(compared: Comparisons) -> tuple[np.ndarray, np.ndarray]:
    """For each comparison, whether it chooses the reply shown first, and whether it says something about position,
    which it does if it chooses one of the two replies that were shown first and last. bool [N] each.
    """
    preferred = compared.ends & (compared.chosen != 0)
    return preferred & (np.sign(compared.chosen) == compared.earlier), preferred


def length(judged: VoteTable) -> LengthBias:
    """Length bias of all people together."""
    found = judged.compared[OVERALL]
    lean = np.sign(found.value) * np.sign(found.longer)
    of_item = np.bincount(found.item, weights=lean)
    longer, shorter = int((of_item > 0).sum()), int((of_item < 0).sum())
    kept = lean != 0
    odds = _odds(found.longer[kept] / UNIT_CHARS, np.sign(found.value[kept]), found.item[kept])
    return LengthBias(share(longer, longer + shorter), fair_coin(longer, longer + shorter), odds)


def fair_coin(hits: int, n: int) -> float | None:
    """p of the exact two-sided binomial test of one half; None for n = 0."""
    return float(binomtest(hits, n, 0.5).pvalue) if n else None


def _odds(longer: np.ndarray, chosen: np.ndarray, item: np.ndarray) -> Estimate:
    """exp(β) of the logistic fit P(chosen = 1) = σ(β · longer), with chosen -1 or 1. n: items.

    There is no intercept: which reply has the first slot says nothing. Interval from the variance clustered by item
    (Liang & Zeger 1986, Biometrika 73, p. 13), with I / (I - 1) and Student's t for I items.
    """
    _, cluster = np.unique(item, return_inverse=True)
    items = int(cluster.max(initial=-1)) + 1
    x = longer * chosen  # the likelihood is Π σ(β x)
    if items < 2 or (x > 0).all() or (x < 0).all():
        return Estimate(None, None, None, items)
    fit: Any = minimize_scalar(lambda beta: float(np.logaddexp(0, -beta * x).sum()))
    beta = float(fit.x)
    missed = expit(-beta * x)
    bread = float((x * x * missed * (1 - missed)).sum())
    scores = np.bincount(cluster, weights=x * missed)
    error = np.sqrt(items / (items - 1) * float((scores**2).sum())) / bread
    half = float(student.ppf(0.975, items - 1)) * error
    if abs(beta) + half > _MOST_LOG_ODDS:
        return Estimate(None, None, None, items)
    return Estimate(float(np.exp(beta)), float(np.exp(beta - half)), float(np.exp(beta + half)), items)
