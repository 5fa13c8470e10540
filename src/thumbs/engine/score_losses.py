"""Losses of a scalar head that scores sequences: what of a pass, and which columns, their formulas read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thumbs.config.losses import HEAD_WEIGHTS, ScoreLoss
from thumbs.engine.batch import Batch, micro_batches
from thumbs.engine.objectives import pair_losses
from thumbs.engine.sequence_losses import sides
from thumbs.engine.token_losses import Pass
from thumbs.functional.formulas import Formula, Loss
from thumbs.functional.reward_losses import (
    COSTS,
    FORMULAS,
    LABELS,
    LISTS,
    at_each_place,
    pair_loss,
    pair_metrics,
    share_in_order,
)
from thumbs.records import Example


def columns(loss: ScoreLoss) -> tuple[Sequence[str], Sequence[str]]:
    """The columns of targets, and those of sequences, that the loss reads."""
    if loss.formula in LABELS:
        return ("weights", "labels"), ()
    if loss.formula in COSTS:
        return ("weights", "labels"), ("unit", "preferred", "unit_weight")
    what = ("rank",) if loss.formula in LISTS else ("preferred", "margin")
    return ("weights",), ("unit", *what, "unit_weight")


def loss_of_values(loss: ScoreLoss, data: Sequence[Example], values: Sequence[np.ndarray]) -> dict[str, float]:
    """`loss` and its other metrics of values [T] that are there already, one array per datum; no gradients."""
    (batch,) = micro_batches(data, torch.device("cpu"), budget=sum(map(len, data)))
    laid = torch.from_numpy(np.concatenate([values[i] for i in batch.order])).float()
    none = torch.zeros_like(laid)
    value, metrics = evaluate(loss, Pass(batch, none, laid, none, none))
    return {"loss": float(value), **{name: float(metric) for name, metric in metrics.items()}}


def evaluate(loss: ScoreLoss, seen: Pass) -> Loss:
    """The loss of a pass."""
    if loss.formula not in FORMULAS:
        return _objective(loss.formula, seen)
    formula: Formula = FORMULAS[loss.formula]
    if loss.formula in LABELS:
        return formula(*_fitted(seen), **loss.settings)
    if loss.formula in LISTS:
        return _lists(formula, loss, seen)
    if loss.formula in COSTS:
        return _costs(formula, seen)
    return _pairs(formula, loss, seen)


def _pairs(formula: Formula, loss: ScoreLoss, seen: Pass) -> Loss:
    def measured(better: Tensor, worse: Tensor, margin: Tensor) -> Tensor:
        return formula(better, worse, margin, **loss.settings)

    scores, of = _scores(seen), seen.batch.sequence_columns
    a, b = sides(seen.batch)
    preferred, margin, weights = (_next_to(scores, of[name][a]) for name in ("preferred", "margin", "unit_weight"))
    weights = weights * _head_weights(seen.batch, a)
    if not loss.by_token:
        return pair_loss(measured, scores[a], scores[b], preferred, margin, weights, loss.center_coef)
    firsts, seconds, pair, lengths = _places(seen, a, b)
    shares = weights[pair] / _next_to(firsts, lengths)[pair]
    value, _ = pair_loss(measured, firsts, seconds, preferred[pair], margin[pair], shares, loss.center_coef)
    last = lengths.cumsum(0) - 1
    return value, pair_metrics(firsts[last], seconds[last], preferred, weights)


def _costs(formula: Formula, seen: Pass) -> Loss:
    """Of a head with one number: pairs whose replies have a label each, at the place where the score is read."""
    scores, of = _scores(seen), seen.batch.sequence_columns
    labels = [x.sum() for x in seen.batch.split(seen.batch.columns["labels"] * seen.batch.columns["weights"])]
    a, b = sides(seen.batch)
    unsafe = torch.stack(labels)
    return formula(scores[a], scores[b], of["preferred"][a], unsafe[a], unsafe[b], of["unit_weight"][a])


def _places(seen: Pass, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values of both sides at each place of the longer one, laid end to end [N] or [N, H]; the pair of each place [N],
    and the places of each pair [P].
    """
    batch = seen.batch
    pieces = [v[w > 0] for v, w in zip(batch.split(seen.values), batch.split(batch.columns["weights"]), strict=True)]
    pairs = [at_each_place(pieces[i], pieces[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    lengths = torch.tensor([len(first) for first, _ in pairs], device=a.device)
    firsts, seconds = (torch.cat(values) for values in zip(*pairs, strict=True))
    pair = torch.arange(len(pairs), device=a.device).repeat_interleave(lengths, output_size=len(firsts))
    return firsts, seconds, pair, lengths


def _lists(formula: Formula, loss: ScoreLoss, seen: Pass) -> Loss:
    """Sum over the lists. Metrics, both weighted by list: `in_order_sum`, the share of untied pairs in the right order,
    over `ordered_sum`, 1 for a list that has any.
    """
    scores, of = _scores(seen), seen.batch.sequence_columns
    by_list, ranked = dict[int, list[int]](), of["rank"].tolist()
    for place, unit in enumerate(of["unit"].tolist()):
        by_list.setdefault(int(unit), []).append(place)
    total = torch.zeros((), dtype=scores.dtype, device=scores.device)
    in_order, ordered = total.clone(), total.clone()
    for places in by_list.values():
        own, ranks = scores[places].reshape(len(places), -1), [ranked[place] for place in places]
        weight = of["unit_weight"][places[0]]
        losses = formula(own, ranks, **loss.settings)
        total = total + (weight * _head_weights(seen.batch, places[:1]) * losses).sum()
        right = share_in_order(own.detach(), ranks)
        if right is not None:
            in_order, ordered = in_order + weight * right, ordered + weight
    return total, {"in_order_sum": in_order, "ordered_sum": ordered}


def _objective(name: str, seen: Pass) -> Loss:
    """An objective that a program registered. Ties have no chosen reply, so they add nothing."""
    scores, of = _scores(seen), seen.batch.sequence_columns
    a, b = sides(seen.batch)
    preferred, weights = (of[name][a] for name in ("preferred", "unit_weight"))
    metrics = pair_metrics(scores[a], scores[b], preferred, weights)
    clear, first = preferred != 0.5, preferred > 0.5
    if not clear.any():
        return 0.0 * scores.sum(), metrics
    chosen, rejected = (torch.where(side, scores[a], scores[b])[clear] for side in (first, ~first))
    return (weights[clear] * pair_losses(name, chosen, rejected)).sum(), metrics


def _fitted(seen: Pass) -> tuple[Tensor, Tensor, Tensor]:
    """Values, labels, weights of each target."""
    labels, weights = (_next_to(seen.values, seen.batch.columns[name]) for name in ("labels", "weights"))
    return seen.values, labels, weights * _head_weights(seen.batch, seen.batch.sequence)


def _scores(seen: Pass) -> Tensor:
    """Sum of weights · values of each sequence, [B] or [B, H]: with its one weight at the end, the value there."""
    weighted = seen.values * _next_to(seen.values, seen.batch.columns["weights"])
    return torch.stack([piece.sum(0) for piece in seen.batch.split(weighted)])


def _next_to(values: Tensor, x: Tensor) -> Tensor:
    """x so that it meets values of one number, or of H, in their first dimension."""
    return x if values.ndim == 1 else x[:, None]


def _head_weights(batch: Batch, rows: Any) -> Tensor | float:
    weights = batch.sequence_columns.get(HEAD_WEIGHTS)
    return 1.0 if weights is None else weights[rows]
