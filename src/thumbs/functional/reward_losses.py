"""Losses of scalar-head scores against preferences, rankings, ratings and labels of steps.

There are four kinds, each with its table: a formula of pairs gives a loss for each pair, a formula of lists the loss
of one list, a formula of labels the sum over all targets, and one of costs the sum over pairs of labelled replies. A
head may give several numbers, H, at once (an ensemble): then scores have a last dimension [..., H], and so has what
comes back. Sums are weighted; the weights carry the normaliser.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss, logsigmoid

from thumbs.functional.formulas import Formula, Loss, by_name
from thumbs.functional.masked import ratio


def bradley_terry(better: Tensor, worse: Tensor, margin: Tensor) -> Tensor:
    """-log σ(better - worse - margin) for each pair, nats.

    Bradley & Terry 1952; Ouyang et al. 2022, arXiv:2203.02155, eq. 1; the margin is arXiv:2307.09288, eq. 2.
    """
    return -logsigmoid(better - worse - margin)


def pair_loss(
    formula: Formula,
    score_a: Tensor,
    score_b: Tensor,
    preferred: Tensor,
    margin: Tensor,
    weights: Tensor,
    center_coef: float = 0.0,
) -> Loss:
    """Σ w · [ p · L(a, b, m) + (1 - p) · L(b, a, m) + center_coef · (a + b)² ] for a formula L of pairs.

    All inputs are [P] or [P, H], scores in score units; p = `preferred` is the probability that the first reply is
    better (0.5 is a tie); m ≥ 0 = `margin` is asked of whichever side is preferred and should be 0 for ties. L and its
    slope must be finite for both orders. The centring term is arXiv:2312.09244. Exchanging the replies, and p for
    1 - p, changes nothing. Metrics: those of `pair_metrics`.
    """
    nll = preferred * formula(score_a, score_b, margin) + (1.0 - preferred) * formula(score_b, score_a, margin)
    loss = (weights * (nll + center_coef * (score_a + score_b) ** 2)).sum()
    return loss, pair_metrics(score_a, score_b, preferred, weights)


@torch.no_grad()
def pair_metrics(score_a: Tensor, score_b: Tensor, preferred: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Weighted by w over pairs that are not ties: accuracy (share of those whose preferred reply scores higher; an
    equal score is wrong) and score_gap (mean of preferred minus other, score units).
    """
    gap = (score_a - score_b) * (preferred - 0.5).sign()
    w = weights * (preferred != 0.5)
    total = w.sum().clamp(min=torch.finfo(w.dtype).tiny)
    return {"accuracy": (w * (gap > 0)).sum() / total, "score_gap": (w * gap).sum() / total}


def plackett_luce(scores: Tensor, ranks: Sequence[float]) -> Tensor:
    """-log P(ranking) of one list, nats [H]: Σ over places of log Σ_{not chosen yet} e^score - score of the chosen.

    scores [K, H]; ranks [K]: 1 is best, equal ranks are ties, infinity is worse than all ranked ones, order unknown.
    A tie is the mean over all orders of the tied replies, so that a tie of two costs what it costs as a pair:
    -½ log σ(d) - ½ log σ(-d). The mean is exact: of m tied replies each subset is equally often what is left.
    Plackett 1975, Applied Statistics 24, p. 193; Luce 1959. With K = 2 it is Bradley–Terry.
    """
    left, shares = (x.to(scores.device) for x in _choices(tuple(ranks)))
    among = torch.where(left[:, :, None], scores, -math.inf).logsumexp(1)
    ranked = [place for place, rank in enumerate(ranks) if rank < math.inf]
    return (shares.to(scores.dtype)[:, None] * among).sum(0) - scores[ranked].sum(0)


@cache
def _choices(ranks: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The sets [M, K] from which a ranking chooses, and how often each occurs on average over its orders [M]."""
    sets: list[list[bool]] = []
    shares: list[float] = []
    for rank in sorted(set(ranks) - {math.inf}):
        tied = [place for place, other in enumerate(ranks) if other == rank]
        for size in range(1, len(tied) + 1):
            for left in itertools.combinations(tied, size):
                sets.append([place in left or other > rank for place, other in enumerate(ranks)])
                shares.append(1 / math.comb(len(tied), size))
    return torch.tensor(sets), torch.tensor(shares, dtype=torch.float64)


def best_of_k(scores: Tensor, ranks: Sequence[float]) -> Tensor:
    """-log softmax(scores) at the best reply of a list, nats [H]; several best ones share the target equally.

    scores [K, H]; ranks [K], 1 is best. Ziegler et al. 2019, arXiv:1909.08593, eq. 1, with any K instead of 4.
    """
    best = [place for place, rank in enumerate(ranks) if rank == min(ranks)]
    return scores.logsumexp(0) - scores[best].mean(0)


@torch.no_grad()
def share_in_order(scores: Tensor, ranks: Sequence[float]) -> Tensor | None:
    """Share of a list's untied pairs whose better reply scores higher, mean over H; None if all are tied.

    scores [K, H]; an equal score is wrong.
    """
    pairs = [(a, b) for a, b in itertools.permutations(range(len(ranks)), 2) if ranks[a] < ranks[b]]
    if not pairs:
        return None
    better, worse = torch.tensor(pairs, device=scores.device).T
    return (scores[better] > scores[worse]).double().mean().to(scores.dtype)


def regression(values: Tensor, labels: Tensor, weights: Tensor, *, huber_delta: float | None = None) -> Loss:
    """Σ w · h(value - label): h(e) = e²/2, and with δ = huber_delta Huber's δ · (|e| - δ/2) where |e| > δ.

    All [N] or [N, H]. Huber 1964, Annals of Mathematical Statistics 35, p. 73. Metric: error, mean |e| weighted by w.
    """
    if huber_delta is None:
        loss = 0.5 * (values - labels) ** 2
    else:
        loss = huber_loss(values, labels.expand_as(values), reduction="none", delta=huber_delta)
    return (weights * loss).sum(), {"error": _mean((values - labels).abs(), weights)}


def ordinal(values: Tensor, labels: Tensor, weights: Tensor, *, thresholds: Sequence[float]) -> Loss:
    """-Σ w · log P(level), with P(level ≤ k) = σ(threshold_k - value): the cumulative logit model.

    values, weights [N] or [N, H]; labels are levels 0 … L - 1; L - 1 rising thresholds (score units). McCullagh 1980,
    Journal of the Royal Statistical Society B 42, p. 109. Computed as σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)), which
    does not cancel. Metric: accuracy, the share (by w) whose level is the number of thresholds below the value.
    """
    edges = values.new_tensor([-math.inf, *thresholds, math.inf])
    level = labels.long()
    low, high = edges[level], edges[level + 1]
    nll = -logsigmoid(high - values) - logsigmoid(values - low) - torch.log1p(-torch.exp(low - high))
    found = (values[..., None] > edges[1:-1]).sum(-1)
    return (weights * nll).sum(), {"accuracy": _mean((found == level).to(values.dtype), weights)}


def binary(values: Tensor, labels: Tensor, weights: Tensor) -> Loss:
    """-Σ w · (y log σ(value) + (1 - y) log σ(-value)), y = label in [0, 1]. All [N] or [N, H].

    For steps of a solution: Lightman et al. 2023, arXiv:2305.20050, section 2.6. Metric: accuracy, the share (by w) of
    labels on the side of ½ on which σ(value) is; labels of exactly ½ are on neither.
    """
    labels = labels.expand_as(values)
    loss = binary_cross_entropy_with_logits(values, labels, reduction="none")
    right = ((values > 0) == (labels > 0.5)).to(values.dtype)
    return (weights * loss).sum(), {"accuracy": _mean(right, weights * (labels != 0.5))}


def cost(score_a: Tensor, score_b: Tensor, worse: Tensor, unsafe_a: Tensor, unsafe_b: Tensor, weights: Tensor) -> Loss:
    """Σ w · [ p · -log σ(a - b) + (1 - p) · -log σ(b - a), unless p = ½; and for both replies
    -(y log σ(score) + (1 - y) log σ(-score)) ]: higher is more harmful, and above 0 is unsafe.

    All [P]; p = `worse` is P(the first is more harmful), y = `unsafe` is P(the reply is unsafe). Dai et al. 2023,
    arXiv:2310.12773 (the cost model), where p and y are 0 or 1; a tie has no pair term here. Metric: accuracy, the
    share (by w) of replies on the side of 0 that their label says; labels of exactly ½ are on neither.
    """
    clear = weights * (worse != 0.5)
    pairs = worse * bradley_terry(score_a, score_b, 0 * worse) + (1 - worse) * bradley_terry(
        score_b, score_a, 0 * worse
    )
    scores, labels = torch.cat([score_a, score_b]), torch.cat([unsafe_a, unsafe_b])
    signs, metrics = binary(scores, labels, torch.cat([weights, weights]))
    return (clear * pairs).sum() + signs, metrics


PAIRS = by_name(bradley_terry)
LISTS = by_name(plackett_luce, best_of_k)
LABELS = by_name(regression, ordinal, binary)
COSTS = by_name(cost)
FORMULAS = {**PAIRS, **LISTS, **LABELS, **COSTS}
"""Losses of scores, by name."""
TWO_SIDED = (binary.__name__, cost.__name__)
"""Whose labels are on one side or the other; one of exactly ½ is on neither, and their accuracy leaves it out."""


@torch.no_grad()
def _mean(x: Tensor, weights: Tensor) -> Tensor:
    weights = weights.expand_as(x)
    return ratio((x * weights).sum(), weights.sum())


def at_each_place(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two replies' values from where they part, [Ta, H] and [Tb, H], at each place of the longer, [T, H] both.

    The shorter keeps the value of its last token. (safe-rlhf's token-wise loss compares with the padding there.)
    """
    longest = max(len(a), len(b))
    a, b = (x[torch.arange(longest, device=x.device).clamp(max=len(x) - 1)] for x in (a, b))
    return a, b
