"""Losses of whole sequences that are compared with each other: which function of `functional/` each spec is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from thumbs.config.losses import BradleyTerry, Dpo, LossSpec
from thumbs.engine.batch import Batch
from thumbs.engine.token_losses import Pass
from thumbs.errors import DataError
from thumbs.functional.policy_losses import Loss
from thumbs.functional.preference_losses import bradley_terry


def _bradley_terry(loss: BradleyTerry, seen: Pass) -> Loss:
    return _pairs(seen.batch, seen.values * seen.batch.columns["weights"], loss.center_coef)


def _dpo(loss: Dpo, seen: Pass) -> Loss:
    columns = seen.batch.columns
    ratios = (seen.logprobs - columns["reference_logprobs"]) * columns["weights"]
    return _pairs(seen.batch, loss.beta * ratios)


def _pairs(batch: Batch, values: Tensor, center_coef: float = 0.0) -> Loss:
    """Bradley–Terry on the sum of each sequence's values [N]; the two sides of a pair stand in datum order."""
    scores, of = torch.stack([piece.sum() for piece in batch.split(values)]), batch.sequence_columns
    a, b = sides(batch)
    return bradley_terry(scores[a], scores[b], of["preferred"][a], of["margin"][a], of["unit_weight"][a], center_coef)


def sides(batch: Batch) -> Tensor:
    """Places of the first and the second sequence of each pair [2, P], in datum order."""
    by_pair: dict[int, list[int]] = {}
    for place in sorted(range(len(batch.order)), key=batch.order.__getitem__):
        by_pair.setdefault(int(batch.sequence_columns["unit"][place]), []).append(place)
    if any(len(places) != 2 for places in by_pair.values()):
        raise DataError("a loss of pairs needs exactly two sequences for each value of the column `unit`")
    return torch.tensor(list(by_pair.values()), device=batch.tokens.device).T


SEQUENCE_LOSSES: Mapping[type[LossSpec], Callable[[Any, Pass], Loss]] = {
    BradleyTerry: _bradley_terry,
    Dpo: _dpo,
}
