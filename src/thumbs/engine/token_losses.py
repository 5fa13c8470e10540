"""Losses that are sums over targets: which function of `functional/` each spec is, and the columns it reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thumbs.config.losses import (
    Cispo,
    CrossEntropy,
    Dro,
    Gspo,
    ImportanceSampling,
    KlPenalty,
    LossSpec,
    PpoClip,
    ReverseKl,
    ValueClip,
)
from thumbs.engine.batch import Batch
from thumbs.functional.policy_losses import (
    Loss,
    cispo,
    cross_entropy,
    dro,
    gspo,
    importance_sampling,
    kl_penalty,
    ppo_clip,
)
from thumbs.functional.reverse_kl import reverse_kl
from thumbs.functional.value_losses import value_clip


@dataclass(frozen=True)
class Pass:
    """Of one micro-batch: logprobs as the targets and entropy [N] (nats; 0 where no weight is), values [N] or of a
    head that gives H numbers [N, H] (score), and where a loss reads it the divergence from a reference [N] (nats).
    """

    batch: Batch
    logprobs: Tensor
    values: Tensor
    entropy: Tensor
    divergence: Tensor

    def against_sampler(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logprobs, the sampler's logprobs, advantages, weights."""
        columns = self.batch.columns
        return self.logprobs, columns["logprobs"], columns["advantages"], columns["weights"]


def _cross_entropy(_: CrossEntropy, seen: Pass) -> Loss:
    return cross_entropy(seen.logprobs, seen.batch.columns["weights"])


def _ppo_clip(loss: PpoClip, seen: Pass) -> Loss:
    high = loss.clip_range_high
    return ppo_clip(*seen.against_sampler(), loss.clip_range, seen.entropy, loss.entropy_coef, clip_range_high=high)


def _importance_sampling(_: ImportanceSampling, seen: Pass) -> Loss:
    return importance_sampling(*seen.against_sampler())


def _cispo(loss: Cispo, seen: Pass) -> Loss:
    return cispo(*seen.against_sampler(), loss.low, loss.high)


def _dro(loss: Dro, seen: Pass) -> Loss:
    return dro(*seen.against_sampler(), loss.beta)


def _gspo(loss: Gspo, seen: Pass) -> Loss:
    low, high = 1 - loss.clip_range, 1 + loss.clip_range_high
    return gspo(*seen.against_sampler(), seen.batch.columns["ratio_mask"], seen.batch.sequence, low, high)


def _kl_penalty(loss: KlPenalty, seen: Pass) -> Loss:
    columns = seen.batch.columns
    return kl_penalty(seen.logprobs, columns["reference_logprobs"], columns["weights"], loss.coef, loss.estimator)


def _reverse_kl(loss: ReverseKl, seen: Pass) -> Loss:
    return reverse_kl(seen.divergence, seen.batch.columns["weights"], loss.temperature)


def _value_clip(loss: ValueClip, seen: Pass) -> Loss:
    columns = seen.batch.columns
    old, returns, weights = columns["values"], columns["returns"], columns["weights"]
    value, metrics = value_clip(seen.values, old, returns, weights, loss.clip_range)
    return loss.coef * value, metrics


TOKEN_LOSSES: Mapping[type[LossSpec], Callable[[Any, Pass], Loss]] = {
    CrossEntropy: _cross_entropy,
    PpoClip: _ppo_clip,
    ImportanceSampling: _importance_sampling,
    Cispo: _cispo,
    Dro: _dro,
    Gspo: _gspo,
    KlPenalty: _kl_penalty,
    ReverseKl: _reverse_kl,
    ValueClip: _value_clip,
}
"""All of them are linear in the weights."""
