"""Estimates with intervals from the replies of an evaluation. What is drawn anew is always the prompt.

Replies to one prompt are alike: an interval that takes them for independent is too narrow (here, for 10 pairs per
prompt, nominal 95 % covered 85 to 92 %). All arrays have the prompt as their first dimension, P.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from thumbs.evaluation.intervals import wilson
from thumbs.functional.bootstrap import bootstrap

FEWEST = 6
"""So many prompts must agree before their mean is sure: five of one sign still have a chance of 2 · ½⁵ > 5 %."""
GLM_DRAWS = 500
"""Bootstrap draws of an interval that fits a model each time."""
RIDGE = 1e-2
"""Penalty on the squared coefficients of the model of length, so that a side that always wins has a finite one."""


class Measured(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Of a difference: `better` or `worse` if the interval says so, else `not better`."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not better"


def mean(values: np.ndarray, seed: int) -> Measured:
    """Mean over prompts of values [P], or of means over draws [P, D]; prompts that have none (NaN) are left out."""
    values = _by_prompt(values)
    return ratio(values, np.ones_like(values), seed)


def ratio(numerators: np.ndarray, denominators: np.ndarray, seed: int) -> Measured:
    """Σ numerators / Σ denominators, [P] each: a mean over what prompts have different numbers of. A few prompts that
    all say the same bound nothing.
    """
    known = np.isfinite(numerators) & (denominators > 0)
    top, bottom = numerators[known], denominators[known]
    if not len(top):
        return Measured(math.nan, math.nan, math.nan)
    if len(top) < FEWEST and _agree(top, bottom):
        return Measured(float(top.sum() / bottom.sum()), -math.inf, math.inf)
    low, high = bootstrap(lambda weights: (weights @ top) / (weights @ bottom), len(top), seed)
    return Measured(float(top.sum() / bottom.sum()), low, high)


def share(hits: np.ndarray, counts: np.ndarray, seed: int) -> Measured:
    """Σ hits / Σ counts, a fraction. If all prompts agree a bootstrap knows no doubt, so the interval is Wilson's over
    the prompts; that also bounds the interval of a single prompt.
    """
    found, prompts = ratio(hits, counts, seed), int((counts > 0).sum())
    if not prompts:
        return Measured(math.nan, 0.0, 1.0)
    if _agree(hits[counts > 0], counts[counts > 0]):
        return Measured(found.value, *wilson(found.value * prompts, prompts))
    return Measured(found.value, max(found.low, 0.0), min(found.high, 1.0))


def clustered(hits: Sequence[float] | np.ndarray, prompts: Sequence[object], seed: int) -> Measured:
    """Share of hits (0, ½ or 1 each), clustered by what prompt each one is of."""
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
    rows = np.array([place[prompt] for prompt in prompts], dtype=np.int64)
    values = np.asarray(hits, dtype=np.float64)
    return share(np.bincount(rows, values, len(place)), np.bincount(rows, None, len(place)), seed)


def difference(left: np.ndarray, right: np.ndarray, seed: int) -> Measured:
    """Mean of left - right over the same prompts, [P] or [P, D] each; D may differ."""
    return mean(_by_prompt(left) - _by_prompt(right), seed)


def wins(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Share of all pairs of a left and a right reply to a prompt in which the left scores higher, a tie is one half.

    left [P, D], right [P, E]; returns [P].
    """
    gap = left[:, :, None] - right[:, None, :]
    return ((gap > 0) + 0.5 * (gap == 0)).mean(axis=(1, 2))


def length_controlled(
    won: np.ndarray, length_gap: np.ndarray, prompts: np.ndarray, seed: int, draws: int = GLM_DRAWS
) -> Measured:
    """Win rate that would be left if both replies were equally long, with a bootstrap over prompts.

    A logistic model logit P(win) = θ + φ·tanh(Δ/s) of the difference in length Δ with its deviation s, of which σ(θ) is
    the answer (AlpacaEval 2: Dubois et al. 2024, arXiv:2404.04475, without its terms for several models). won [R], 0 to
    1; length_gap [R], tokens; prompts [R]: numbers from 0 of the prompts that the rows are of.
    """
    spread = float(length_gap.std())
    x = np.tanh(length_gap / spread) if spread > 0 else np.zeros(len(won))
    theta = _logistic(won, x, np.ones((1, len(won))))[0, 0]
    low, high = bootstrap(
        lambda weights: _logistic(won, x, weights[:, prompts])[:, 0], int(prompts.max()) + 1, seed, draws
    )
    return Measured(*(1 / (1 + math.exp(-min(max(value, -500), 500))) for value in (theta, low, high)))


def best_of_n(proxy: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Mean `values` of the best of n replies by `proxy`, over all subsets of n from the pool; [P, N] each, gives [P].

    Without bias for every n ≤ N: the reply of rank i (from the worst, 1) is the best of C(i-1, n-1) of the C(N, n)
    subsets (Nakano et al. 2021, arXiv:2112.09332, appendix I). Replies of one proxy score share their ranks.
    """
    pool = proxy.shape[1]
    ranks = np.arange(1, pool + 1)
    log_weights = [_log_choose(rank - 1, n - 1) - _log_choose(pool, n) if rank >= n else -math.inf for rank in ranks]
    weights, order = np.exp(log_weights), np.argsort(proxy, axis=1, kind="stable")
    found = np.empty(len(proxy))
    for row, places in enumerate(order):
        _, tie = np.unique(proxy[row, places], return_inverse=True)
        shared = np.bincount(tie, weights) / np.bincount(tie)
        found[row] = values[row, places] @ shared[tie]
    return found


def agreement_of_orders(first: np.ndarray, second: np.ndarray, prompts: Sequence[object], seed: int) -> Measured:
    """Consistency: share of pairs whose winner is the same in both orders, P(this one is better) in each [R]."""
    same = np.sign(np.round(first - 0.5, 9)) == np.sign(np.round(second - 0.5, 9))
    return clustered(same, prompts, seed)


def _agree(numerators: np.ndarray, denominators: np.ndarray) -> bool:
    """Whether all prompts say the same, so that a bootstrap knows no doubt."""
    return bool(np.ptp(numerators / denominators) < 1e-12)


def _by_prompt(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 1 else values.mean(axis=1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _logistic(won: np.ndarray, x: np.ndarray, weights: np.ndarray, steps: int = 30) -> np.ndarray:
    """(θ, φ) for each row of weights [B, R], by Newton's method on the penalised likelihood; [B, 2]."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(theta[:, None] + phi[:, None] * x, -30, 30)))
        error, curve = weights * (won - p), weights * p * (1 - p)
        g = np.stack([error.sum(1) - RIDGE * theta, (error * x).sum(1) - RIDGE * phi])
        a, b, c = curve.sum(1) + RIDGE, (curve * x).sum(1), (curve * x * x).sum(1) + RIDGE
        step = np.stack([c * g[0] - b * g[1], a * g[1] - b * g[0]]) / (a * c - b * b)
        step = np.clip(step, -2, 2)
        theta, phi = theta + step[0], phi + step[1]
        if float(np.abs(step).max(initial=0)) < 1e-8:
            break
    return np.stack([theta, phi], axis=1)
