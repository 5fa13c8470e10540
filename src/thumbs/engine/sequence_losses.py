"""Losses of policies on whole replies: which function of `functional/` each spec is, and the columns it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from thumbs.config.losses import Kto, LossSpec, PreferencePairs
from thumbs.engine.batch import Batch
from thumbs.engine.token_losses import Pass
from thumbs.errors import DataError
from thumbs.functional.policy_losses import Loss
from thumbs.functional.preference_losses import FORMULAS, Side, kto, preference_loss


def _preference(loss: PreferencePairs, seen: Pass) -> Loss:
    logprob, length = _of_replies(seen)
    of = seen.batch.sequence_columns
    a, b = sides(seen.batch)
    first, second = (Side(logprob[x], of["reference"][x], length[x], of["baseline"][x]) for x in (a, b))
    formula = partial(FORMULAS[loss.formula], **loss.settings)
    return preference_loss(formula, first, second, of["preferred"][a], of["unit_weight"][a], loss.sft_coef), {}


def _kto(loss: Kto, seen: Pass) -> Loss:
    of = seen.batch.sequence_columns
    columns = (of[name] for name in ("reference", "baseline", "desirable", "unit_weight"))
    return kto(_of_replies(seen)[0], *columns, **loss.model_dump(exclude={"name"})), {}


def _of_replies(seen: Pass) -> tuple[Tensor, Tensor]:
    """Of each sequence the logprob of the reply (nats) and its length (tokens), [B] each."""
    weights = seen.batch.columns["weights"]
    weighted = seen.batch.split(seen.logprobs * weights)
    lengths = seen.batch.split(weights)
    return torch.stack([x.sum() for x in weighted]), torch.stack([x.sum() for x in lengths])


def sides(batch: Batch) -> Tensor:
    """Places of the first and the second sequence of each pair [2, P], in datum order."""
    by_pair: dict[int, list[int]] = {}
    for place in sorted(range(len(batch.order)), key=batch.order.__getitem__):
        by_pair.setdefault(int(batch.sequence_columns["unit"][place]), []).append(place)
    if any(len(places) != 2 for places in by_pair.values()):
        raise DataError("a loss of pairs needs exactly two sequences for each value of the column `unit`")
    return torch.tensor(list(by_pair.values()), device=batch.tokens.device).T


SEQUENCE_LOSSES: Mapping[type[LossSpec], Callable[[Any, Pass], Loss]] = {
    PreferencePairs: _preference,
    Kto: _kto,
}
