"""Can a judge be trusted? Consistency, taste for a place and for length, agreement with people, all with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from thumbs.data.preferences import preferred
from thumbs.errors import DataError
from thumbs.evaluation import statistics
from thumbs.evaluation.gold import PairJudge
from thumbs.evaluation.statistics import Measured
from thumbs.records import Preference


def audit_judge(judge: PairJudge, pairs: Sequence[Preference], seed: int = 0) -> dict[str, Any]:
    """What a judge makes of pairs that people judged, as plain data; every number {value, low, high} or null.

    consistency: share of pairs with one verdict in both orders, ties too. position: share of single verdicts for the
    reply that is shown first; 0.5 is no taste. longer: share of pairs whose longer reply (characters) it prefers,
    longer_labels: that people prefer, length_bias: their difference on the same pairs. agreement: share of untied
    labels that its verdict, the mean of both orders, shares, next to the null baselines: always the longer reply,
    always the first of the file.
    """
    judged = [(pair, better) for pair in pairs if (better := preferred(pair)) is not None]
    if not judged:
        raise DataError("none of the pairs has a verdict of people to compare the judge with")
    told = judge.both_orders([(p.prompt, p.replies[0].text, p.replies[1].text) for p, _ in judged])
    orders = np.array([[np.nan if value is None else value for value in both] for both in told], dtype=np.float64)
    labels = np.array([better for _, better in judged])
    prompts = [pair.prompt for pair, _ in judged]
    longer = np.array([np.sign(len(p.replies[0].text) - len(p.replies[1].text)) for p, _ in judged])
    verdict = _sides(orders.mean(axis=1))
    untied, differ = labels != 0.5, longer != 0

    def share(hits: np.ndarray, among: np.ndarray) -> Measured:
        chosen = [prompt for prompt, is_in in zip(prompts, among, strict=True) if is_in]
        return statistics.clustered(hits[among].astype(float), chosen, seed)

    first, second = _sides(orders[:, 0]), -_sides(orders[:, 1])  # +1: the reply that is shown first
    for_longer = (1 + verdict * longer) / 2
    of_labels = (1 + _sides(labels) * longer) / 2
    found = {
        "consistency": statistics.agreement_of_orders(orders[:, 0], orders[:, 1], prompts, seed),
        "position": share((2 + first + second) / 4, np.ones(len(judged), dtype=bool)),
        "longer": share(for_longer, differ),
        "longer_labels": share(of_labels, differ),
        "length_bias": _difference(for_longer[differ] - of_labels[differ], prompts, differ, seed),
        "agreement": share((1 + verdict * _sides(labels)) / 2, untied),
        "null_longer": share((1 + longer * _sides(labels)) / 2, untied),
        "null_first": share((1 + _sides(labels)) / 2, untied),
    }
    return {"pairs": len(judged), "untied": int(untied.sum())} | {k: v._asdict() for k, v in found.items()}


def _difference(gaps: np.ndarray, prompts: Sequence[Any], among: np.ndarray, seed: int) -> Measured:
    chosen = [prompt for prompt, is_in in zip(prompts, among, strict=True) if is_in]
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(chosen))}
    rows = np.array([place[prompt] for prompt in chosen], dtype=np.int64)
    return statistics.ratio(np.bincount(rows, gaps, len(place)), np.bincount(rows, None, len(place)), seed)


def _sides(share: np.ndarray) -> np.ndarray:
    """+1 for the first, -1 for the second, 0 for neither."""
    return np.sign(np.round(share - 0.5, 9))
