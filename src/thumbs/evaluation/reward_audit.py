"""Can the reward model be trusted? Accuracy, calibration and length bias on pairs it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thumbs.evaluation.statistics import clustered


def audit(
    scores_a: Sequence[float],
    scores_b: Sequence[float],
    preferred: Sequence[float],
    lengths_a: Sequence[int],
    lengths_b: Sequence[int],
    bins: int = 10,
    prompts: Sequence[object] | None = None,
) -> dict[str, Any]:
    """Audit of scores on pairs, as plain data; preferred is P(a is better), 0.5 for a tie, lengths in tokens.

    prompts: what prompt each pair is of, by which intervals are drawn; None: each of another. nulls: the accuracy of
    always choosing the longer reply (of equal ones half of the time), and the first.

    n counts pairs that are not ties; loss is over all pairs (nats). Accuracy: share of untied pairs whose preferred
    reply scores higher. Calibration: σ(|score gap|), the confidence in the winner, against how often the winner is the
    preferred one; ece, a fraction, is the mean distance of the two, weighted by n; each of `bins` holds the pairs whose
    confidence lies in [low, high): its mean (predicted), how often it came true (observed), and how many they are.
    """
    gap = np.subtract(scores_a, scores_b).astype(np.float64)
    better = np.asarray(preferred, dtype=np.float64)
    untied = better != 0.5
    right = (gap * (better - 0.5) > 0)[untied]  # equal scores choose nobody, so they are wrong
    n = int(untied.sum())
    clusters = [prompt for prompt, u in zip(prompts or range(len(gap)), untied, strict=True) if u]
    sides = np.sign(better - 0.5)[untied]
    longer = np.sign(np.subtract(lengths_a, lengths_b))[untied]
    accuracy = clustered(right, clusters, 0)
    table = _calibrate(1 / (1 + np.exp(-np.abs(gap[untied]))), right, bins)
    nll = better * np.logaddexp(0, -gap) + (1 - better) * np.logaddexp(0, gap)
    scores, lengths = np.concatenate([scores_a, scores_b]), np.concatenate([lengths_a, lengths_b])
    return {
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "nulls": {
            "longer": clustered((1 + longer * sides) / 2, clusters, 0)._asdict(),
            "first": clustered((1 + sides) / 2, clusters, 0)._asdict(),
        },
        "n": n,
        "ties": len(gap) - n,
        "loss": float(nll.mean()),
        "ece": sum(b["n"] * abs(b["predicted"] - b["observed"]) for b in table) / max(n, 1),
        "length_correlation": _pearson(scores, lengths),
        "length_gap_correlation": _pearson(gap, np.subtract(lengths_a, lengths_b)),
        "bins": table,
    }


def _calibrate(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[dict[str, float], ...]:
    edges = np.linspace(0.5, 1.0, bins + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    return tuple(
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "predicted": float(confidence[place == b].mean()),
            "observed": float(right[place == b].mean()),
            "n": int((place == b).sum()),
        }
        for b in range(bins)
        if (place == b).any()
    )


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.std(x) == 0 or np.std(y) == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])
