"""Losses that are sums over targets: what of a pass, and which columns, their formulas read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from thumbs.config.losses import REFERENCE_STATES, TokenLoss
from thumbs.engine.batch import Batch
from thumbs.functional import policy_losses
from thumbs.functional.formulas import Loss, by_name, inputs_of
from thumbs.functional.reverse_kl import reverse_kl
from thumbs.functional.value_losses import value_clip

FORMULAS = {**policy_losses.FORMULAS, **by_name(value_clip, reverse_kl)}

COMPUTED = ("logprobs", "values", "entropy", "divergences")
"""What a pass gives; the other inputs of a formula are columns."""

_COLUMNS = {"old_logprobs": "logprobs", "old_values": "values", "divergences": REFERENCE_STATES}
"""The column behind an input, if it has another name."""

_NO_COLUMNS = ("logprobs", "values", "entropy", "sequence", "temperature")


@dataclass(frozen=True)
class Pass:
    """What one micro-batch gave: logprobs as the targets and entropy [N] (nats; 0 where no weight is), values [N] or of
    a head that gives H numbers [N, H] (score), and if a loss reads it the divergence from a reference [N] (nats).
    """

    batch: Batch
    logprobs: Tensor
    values: Tensor
    entropy: Tensor
    divergences: Tensor


def columns(loss: TokenLoss) -> tuple[Sequence[str], Sequence[str]]:
    """The columns of targets, and those of sequences, that the loss reads."""
    return [_COLUMNS.get(name, name) for name in inputs_of(FORMULAS[loss.formula]) if name not in _NO_COLUMNS], ()


def evaluate(loss: TokenLoss, seen: Pass) -> Loss:
    """The loss of a pass. All of them are linear in the weights."""
    formula = FORMULAS[loss.formula]
    inputs = (_input(name, loss, seen) for name in inputs_of(formula))
    value, metrics = formula(*inputs, **loss.settings)
    return loss.coef * value, metrics


def _input(name: str, loss: TokenLoss, seen: Pass) -> Tensor | float:
    if name in COMPUTED:
        return getattr(seen, name)
    own = {"sequence": seen.batch.sequence, "temperature": loss.temperature}
    return own[name] if name in own else seen.batch.columns[_COLUMNS.get(name, name)]
