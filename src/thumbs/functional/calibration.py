"""Probabilities of scores, and how far they can be trusted: Platt's scaling, Brier score, calibration error, AUROC.

Labels are 1 (unsafe, positive) or 0, or a share of judges between them. All arrays are [N], numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thumbs.functional.bootstrap import bootstraps


def sigmoid(x: np.ndarray) -> np.ndarray:
    """σ(x) = 1 / (1 + exp(−x)), which no x overflows; numpy has none, and the base installs without scipy."""
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def platt(scores: np.ndarray, labels: np.ndarray, steps: int = 50) -> tuple[float, float]:
    """(a, b) of P = σ(a · score + b) with the highest likelihood, by Newton's method.

    Platt 1999, Probabilistic outputs for support vector machines: labels are drawn in to (n₊ + 1) / (n₊ + 2) and
    1 / (n₋ + 2), so that a and b stay finite where scores part the labels.
    """
    centre, spread = float(scores.mean()), max(float(scores.std()), 1e-12)
    x = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)
    positive = labels.sum()
    high, low = (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2)
    target, w = low + (high - low) * labels, np.zeros(2)
    for _ in range(steps):
        p = sigmoid(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, x.T @ (p - target))
        w -= step / max(1.0, float(np.abs(step).max()))
    return float(w[0] / spread), float(w[1] - w[0] * centre / spread)


def brier(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Mean squared distance of probability and label."""
    return float((weights * (probabilities - labels) ** 2).sum() / weights.sum())


def auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """P(a positive scores higher than a negative), equal scores counting half; NaN where one of the two is missing."""
    _, place = np.unique(scores, return_inverse=True)
    positive, negative = (np.bincount(place, weights * side) for side in (labels, 1.0 - labels))
    below = np.concatenate([[0.0], negative.cumsum()[:-1]]) + negative / 2
    total = positive.sum() * negative.sum()
    return float((positive * below).sum() / total) if total > 0 else float("nan")


def reliability(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray, bins: int = 10) -> dict[str, Any]:
    """ece: the mean distance of predicted and observed share, weighted by the replies of each of `bins` equal bins of
    the probability; bins: low, high, predicted, observed and n of those that hold any.
    """
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    found = []
    for b in sorted(set(place.tolist())):
        own = np.where(place == b, weights, 0.0)
        if n := own.sum():
            means = {"predicted": float(own @ probabilities / n), "observed": float(own @ labels / n)}
            found.append({"low": b / bins, "high": (b + 1) / bins, **means, "n": float(n)})
    ece = sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in found) / weights.sum()
    return {"ece": float(ece), "bins": found}


def ece_by_chance(probabilities: np.ndarray, seed: int, draws: int = 500) -> tuple[float, float]:
    """Mean and 95th percentile of the calibration error that so many replies show if the probabilities are right."""
    random, ones = np.random.default_rng(seed), np.ones(len(probabilities))
    drawn = [
        reliability(probabilities, (random.random(len(ones)) < probabilities).astype(float), ones)["ece"]
        for _ in range(draws)
    ]
    return float(np.mean(drawn)), float(np.quantile(drawn, 0.95))


def over_prompts(
    of: Callable[[np.ndarray], Mapping[str, float]], prompts: np.ndarray, seed: int, draws: int = 1000
) -> dict[str, float]:
    """Numbers of weights [N], with NAME_low and NAME_high: 95 % of a bootstrap that draws whole prompts.

    of: gives the numbers by name; prompts [N]: which prompt each row is of, from 0.
    """
    value = dict(of(np.ones(len(prompts))))
    intervals = bootstraps(
        lambda drawn: np.array([[*of(weights[prompts]).values()] for weights in drawn]),
        int(prompts.max()) + 1,
        seed,
        draws,
    )
    for name, low, high in zip(list(value), *np.broadcast_to(intervals, (2, len(value))).tolist(), strict=True):
        value |= {f"{name}_low": low, f"{name}_high": high}
    return value
