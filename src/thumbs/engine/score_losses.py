"""Losses of a scalar head that scores sequences: which function of `functional/` each spec is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thumbs.config.losses import (
    HEAD_WEIGHTS,
    BestOfK,
    Binary,
    BradleyTerry,
    LossSpec,
    Ordinal,
    PairObjective,
    PlackettLuce,
    Regression,
    TokenBradleyTerry,
)
from thumbs.engine.batch import Batch, micro_batches
from thumbs.engine.objectives import pair_losses
from thumbs.engine.sequence_losses import sides
from thumbs.engine.token_losses import Pass
from thumbs.functional import reward_losses
from thumbs.functional.policy_losses import Loss
from thumbs.functional.preference_losses import bradley_terry
from thumbs.records import Datum


def loss_of_values(loss: LossSpec, data: Sequence[Datum], values: Sequence[np.ndarray]) -> dict[str, float]:
    """`loss` and its other metrics of values [T] that are there already, one array a datum; no gradients."""
    (batch,) = micro_batches(data, torch.device("cpu"), budget=sum(map(len, data)))
    laid = torch.from_numpy(np.concatenate([values[i] for i in batch.order])).float()
    none = torch.zeros_like(laid)
    value, metrics = SCORE_LOSSES[type(loss)](loss, Pass(batch, none, laid, none, none))
    return {"loss": float(value), **{name: float(metric) for name, metric in metrics.items()}}


def _bradley_terry(loss: BradleyTerry, seen: Pass) -> Loss:
    scores, of = _scores(seen), seen.batch.sequence_columns
    a, b = sides(seen.batch)
    preferred, margin = (_beside(scores, of[name][a]) for name in ("preferred", "margin"))
    weights = _beside(scores, of["unit_weight"][a]) * _head_weights(seen.batch, a)
    return bradley_terry(scores[a], scores[b], preferred, margin, weights, loss.center_coef)


def _token_bradley_terry(loss: TokenBradleyTerry, seen: Pass) -> Loss:
    batch, of = seen.batch, seen.batch.sequence_columns
    pieces = [v[w > 0] for v, w in zip(batch.split(seen.values), batch.split(batch.columns["weights"]), strict=True)]
    a, b = sides(batch)
    pairs = [reward_losses.at_each_place(pieces[i], pieces[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    lengths = torch.tensor([len(first) for first, _ in pairs], device=a.device)
    firsts, seconds = (torch.cat(sequences) for sequences in zip(*pairs, strict=True))
    pair = torch.arange(len(pairs), device=a.device).repeat_interleave(lengths)
    preferred, margin, weight = (_beside(firsts, of[name][a]) for name in ("preferred", "margin", "unit_weight"))
    weight = weight * _head_weights(batch, a)
    share = weight[pair] / _beside(firsts, lengths)[pair]
    value, _ = bradley_terry(firsts, seconds, preferred[pair], margin[pair], share, loss.center_coef)
    last = lengths.cumsum(0) - 1
    _, metrics = bradley_terry(firsts[last].detach(), seconds[last].detach(), preferred, margin, weight, 0.0)
    return value, metrics


def _plackett_luce(_: PlackettLuce, seen: Pass) -> Loss:
    return _ranked(reward_losses.plackett_luce, seen)


def _best_of_k(_: BestOfK, seen: Pass) -> Loss:
    return _ranked(reward_losses.best_of_k, seen)


def _ranked(of_list: Callable[[Tensor, Sequence[float]], Tensor], seen: Pass) -> Loss:
    """Sum over the lists. Metrics, both weighted by list: `in_order_sum`, the share of untied pairs in the right order,
    over `ordered_sum`, 1 for a list that has any.
    """
    scores, of = _scores(seen), seen.batch.sequence_columns
    by_list: dict[int, list[int]] = {}
    for place, unit in enumerate(of["unit"].tolist()):
        by_list.setdefault(int(unit), []).append(place)
    total = torch.zeros((), dtype=scores.dtype, device=scores.device)
    in_order, ordered = total.clone(), total.clone()
    for places in by_list.values():
        own, ranks = scores[places].reshape(len(places), -1), of["rank"][places].tolist()
        weight = of["unit_weight"][places[0]]
        total = total + (weight * _head_weights(seen.batch, places[:1]) * of_list(own, ranks)).sum()
        right = reward_losses.share_in_order(own.detach(), ranks)
        if right is not None:
            in_order, ordered = in_order + weight * right, ordered + weight
    return total, {"in_order_sum": in_order, "ordered_sum": ordered}


def _regression(loss: Regression, seen: Pass) -> Loss:
    return reward_losses.regression(*_fitted(seen), loss.delta)


def _ordinal(loss: Ordinal, seen: Pass) -> Loss:
    return reward_losses.ordinal(*_fitted(seen), loss.thresholds)


def _binary(_: Binary, seen: Pass) -> Loss:
    return reward_losses.binary(*_fitted(seen))


def _pair_objective(loss: PairObjective, seen: Pass) -> Loss:
    """Ties have no chosen reply, so they add nothing."""
    scores, of = _scores(seen), seen.batch.sequence_columns
    a, b = sides(seen.batch)
    preferred, margin, weights = (of[name][a] for name in ("preferred", "margin", "unit_weight"))
    _, metrics = bradley_terry(scores[a].detach(), scores[b].detach(), preferred, margin, weights, 0.0)
    clear, first = preferred != 0.5, preferred > 0.5
    if not clear.any():
        return 0.0 * scores.sum(), metrics
    chosen, rejected = (torch.where(side, scores[a], scores[b])[clear] for side in (first, ~first))
    return (weights[clear] * pair_losses(loss.objective, chosen, rejected)).sum(), metrics


def _fitted(seen: Pass) -> tuple[Tensor, Tensor, Tensor]:
    """Values, labels, weights of each target."""
    labels, weights = (_beside(seen.values, seen.batch.columns[name]) for name in ("labels", "weights"))
    return seen.values, labels, weights * _head_weights(seen.batch, seen.batch.sequence)


def _scores(seen: Pass) -> Tensor:
    """Sum of weights · values of each sequence, [B] or [B, H]: with its one weight at the end, the value there."""
    weighted = seen.values * _beside(seen.values, seen.batch.columns["weights"])
    return torch.stack([piece.sum(0) for piece in seen.batch.split(weighted)])


def _beside(values: Tensor, x: Tensor) -> Tensor:
    """x so that it meets values of one number, or of H, in their first dimension."""
    return x if values.ndim == 1 else x[:, None]


def _head_weights(batch: Batch, rows: Any) -> Tensor | float:
    weights = batch.sequence_columns.get(HEAD_WEIGHTS)
    return 1.0 if weights is None else weights[rows]


SCORE_LOSSES: Mapping[type[LossSpec], Callable[[Any, Pass], Loss]] = {
    BradleyTerry: _bradley_terry,
    TokenBradleyTerry: _token_bradley_terry,
    PlackettLuce: _plackett_luce,
    BestOfK: _best_of_k,
    Regression: _regression,
    Ordinal: _ordinal,
    Binary: _binary,
    PairObjective: _pair_objective,
}
