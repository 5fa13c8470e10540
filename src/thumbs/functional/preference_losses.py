"""Losses on the scores of a pair of replies. Losses are sums (the weights carry the normaliser)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(
    score_a: Tensor,
    score_b: Tensor,
    preferred: Tensor,
    margin: Tensor,
    weights: Tensor,
    center_coef: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Σ w · [ -p log σ(d - m) - (1 - p) log σ(-d - m) + center_coef · (a + b)² ], with d = score_a - score_b.

    All inputs are [P], scores in score units; p = `preferred` is the probability that the first reply is
    better (0.5 is a tie); m ≥ 0 = `margin` is asked of whichever side is preferred and should be 0 for
    ties. Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1 (p = 1, m = 0); the margin is
    arXiv:2307.09288 eq. 2; the centring term arXiv:2312.09244. Exchanging the replies, and p for 1 - p,
    changes nothing.
    Metrics, weighted by w over pairs that are not ties: accuracy (share where the preferred reply scores
    higher; an equal score is wrong) and score_gap (mean of preferred minus other, score units).
    """
    d = score_a - score_b
    nll = -preferred * logsigmoid(d - margin) - (1.0 - preferred) * logsigmoid(-d - margin)
    loss = (weights * (nll + center_coef * (score_a + score_b) ** 2)).sum()
    with torch.no_grad():
        gap = d * (preferred - 0.5).sign()
        w = weights * (preferred != 0.5)
        total = w.sum()
        share = w / total if total != 0 else w
        metrics = {"accuracy": (share * (gap > 0)).sum(), "score_gap": (share * gap).sum()}
    return loss, metrics
