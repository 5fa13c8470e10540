"""Losses of policies on whole replies: what of a pass, and which columns, their formulas read."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from thumbs.config.losses import PairLoss, ReplyLoss
from thumbs.engine.batch import Batch
from thumbs.engine.token_losses import Pass
from thumbs.errors import DataError
from thumbs.functional.formulas import Loss
from thumbs.functional.preference_losses import FORMULAS, REPLIES, Side, preference_loss

PAIR_COLUMNS = ("unit", "preferred", "reference", "baseline", "unit_weight")
REPLY_COLUMNS = ("reference", "desirable", "baseline", "unit_weight")


def evaluate_pairs(loss: PairLoss, seen: Pass) -> Loss:
    """The loss of pairs of replies."""
    replies, of = _replies(seen), seen.batch.sequence_columns
    a, b = sides(seen.batch)
    formula = partial(FORMULAS[loss.formula], **loss.settings)
    weights = of["unit_weight"][a]
    return preference_loss(formula, replies[a], replies[b], of["preferred"][a], weights, loss.sft_coef), {}


def evaluate_replies(loss: ReplyLoss, seen: Pass) -> Loss:
    """The loss of single replies."""
    of = seen.batch.sequence_columns
    losses = REPLIES[loss.formula](_replies(seen), of["desirable"], **loss.settings)
    return (of["unit_weight"] * losses).sum(), {}


def sides(batch: Batch) -> Tensor:
    """Places of the first and the second sequence of each pair [2, P], in datum order."""
    by_pair, units = dict[int, list[int]](), batch.sequence_columns["unit"].tolist()
    for place in sorted(range(len(batch.order)), key=batch.order.__getitem__):
        by_pair.setdefault(int(units[place]), []).append(place)
    if any(len(places) != 2 for places in by_pair.values()):
        raise DataError("a loss of pairs needs exactly two sequences for each value of the column `unit`")
    return torch.tensor(list(by_pair.values()), device=batch.targets.device).T


def _replies(seen: Pass) -> Side:
    """All sequences of the batch as replies, [B]."""
    weights, of = seen.batch.columns["weights"], seen.batch.sequence_columns
    logprob, length = (
        torch.stack([piece.sum() for piece in seen.batch.split(x)]) for x in (seen.logprobs * weights, weights)
    )
    return Side(logprob, of["reference"], length, of["baseline"])
