"""The single source of loss names, the columns each needs, and their settings.

An algorithm is data preparation plus one of these. `engine/token_losses.py` and `engine/sequence_losses.py` join each
spec to its function; nothing else does. The engine sums over targets; `weights` (and `unit_weight`) carry the
normaliser. `reads`: what of the model a loss looks at: the logprobs of the targets, the values of the scalar
head, or how far whole distributions are from those of a reference.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from thumbs.config.base import Frozen

REFERENCE_STATES = "reference_states"
"""Column of the final hidden states [T, D] of a reference model."""

HEAD_WEIGHTS = "head_weights"
"""Sequence column of one weight for each number of a scalar head that gives several, [H]; absent: 1 each."""


class CrossEntropy(Frozen):
    """- Σ weights · logprob(target): supervised fine-tuning, and the pretraining mix of PPO."""

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    name: Literal["cross_entropy"] = "cross_entropy"


class RatioLoss(Frozen):
    """Losses of sampled tokens against the logprobs of their sampler."""

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights", "logprobs", "advantages")
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the rollouts; logprobs are taken at it."""


class PpoClip(RatioLoss):
    """The clipped policy objective of PPO, eq. 7 of arXiv:1707.06347."""

    name: Literal["ppo_clip"] = "ppo_clip"
    clip_range: float = Field(default=0.2, gt=0)
    """How far the ratio π/π_old is trusted below 1 (and above it), fraction."""
    clip_range_high: float | None = Field(default=None, gt=0)
    """The same above 1 where it differs (clip-higher, arXiv:2503.14476, eq. 10), fraction."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the mean entropy (nats) that is added to the objective."""


class ImportanceSampling(RatioLoss):
    """The policy gradient of another policy's samples: - Σ weights · π/π_old · advantages, nothing clipped."""

    name: Literal["importance_sampling"] = "importance_sampling"


class Cispo(RatioLoss):
    """Policy gradient with clipped importance weights: every token keeps its gradient (arXiv:2506.13585, eq. 4)."""

    name: Literal["cispo"] = "cispo"
    low: float = Field(default=0.0, ge=0)
    """Smallest weight that a ratio π/π_old gives."""
    high: float = Field(default=4.0, gt=0)
    """Largest weight that a ratio π/π_old gives."""


class Dro(RatioLoss):
    """Policy gradient with a square penalty on the distance from the sampler, off-policy (arXiv:2405.19107)."""

    name: Literal["dro"] = "dro"
    beta: float = Field(default=0.05, ge=0)
    """Weight of half the squared log-ratio (score units a nat²)."""


class Gspo(RatioLoss):
    """PPO's clip on one ratio a sequence, the geometric mean of its tokens' (arXiv:2507.18071, eq. 13 to 15)."""

    columns: ClassVar[tuple[str, ...]] = ("weights", "logprobs", "advantages", "ratio_mask")
    name: Literal["gspo"] = "gspo"
    clip_range: float = Field(default=0.2, gt=0)
    """How far the ratio is trusted below 1, fraction."""
    clip_range_high: float = Field(default=0.2, gt=0)
    """How far the ratio is trusted above 1, fraction."""


class KlPenalty(Frozen):
    """coef · Σ weights · KL(policy ‖ reference), estimated at each sampled token; stands beside a policy loss."""

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights", "reference_logprobs")
    name: Literal["kl_penalty"] = "kl_penalty"
    coef: float = Field(default=0.04, ge=0)
    """Price of a nat (score units)."""
    estimator: Literal["k2", "k3"] = "k3"
    """Estimate of the KL at a token; not k1, whose gradient is 0 on average."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the rollouts; logprobs are taken at it."""


class ReverseKl(Frozen):
    """Σ weights · T² · KL(policy ‖ reference) over the whole vocabulary, of distributions at temperature T.

    A column brings the final states of the reference, which has the policy's output embedding.
    """

    reads: ClassVar[str] = "divergence"
    columns: ClassVar[tuple[str, ...]] = ("weights", REFERENCE_STATES)
    name: Literal["reverse_kl"] = "reverse_kl"
    temperature: float = Field(default=1.0, gt=0)
    """Temperature T of both distributions."""


class ValueClip(Frozen):
    """Half the squared error of the values, with the clipped variant of the PPO2 code (maximum of the two)."""

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights", "values", "returns")
    name: Literal["value_clip"] = "value_clip"
    clip_range: float | None = Field(default=0.2, gt=0)
    """How far a value may move from its old prediction (score units); null switches clipping off."""
    coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss beside the policy loss."""


class BradleyTerry(Frozen):
    """Pairwise logistic loss on the scores of two replies; `preferred` = P(first is better), 0.5 for a tie."""

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "preferred", "margin", "unit_weight")
    name: Literal["bradley_terry"] = "bradley_terry"
    center_coef: float = Field(default=0.0, ge=0)
    """Weight of (score_a + score_b)², which keeps scores near zero (arXiv:2312.09244)."""


class TokenBradleyTerry(Frozen):
    """Bradley–Terry on the values at every token from where `weights` begin, the place where two replies part.

    The mean over the places of the longer reply; the shorter one keeps the value of its end.
    """

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "preferred", "margin", "unit_weight")
    name: Literal["token_bradley_terry"] = "token_bradley_terry"
    center_coef: float = Field(default=0.0, ge=0)
    """Weight of (value_a + value_b)² at each place."""


class RankLoss(Frozen):
    """Losses of ranked lists; the replies of a list share `unit`; `rank` 1 is best, equal ranks are ties, and
    infinity is worse than all ranked ones, in an order that nobody gave.
    """

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "rank", "unit_weight")


class PlackettLuce(RankLoss):
    """Probability of the whole ranking, the best chosen from all, the next from the rest, and so on."""

    name: Literal["plackett_luce"] = "plackett_luce"


class BestOfK(RankLoss):
    """Probability that the best reply is chosen from all (arXiv:1909.08593, eq. 1)."""

    name: Literal["best_of_k"] = "best_of_k"


class ValueFit(Frozen):
    """Losses that fit the values of the scalar head to `labels`, wherever `weights` are not 0."""

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights", "labels")


class Regression(ValueFit):
    """Half the squared error of the values, or Huber's loss: Σ weights · h(value - label)."""

    name: Literal["regression"] = "regression"
    delta: float | None = Field(default=None, gt=0)
    """Error from which the loss grows linearly (units of the label); null: squares everywhere."""


class Ordinal(ValueFit):
    """Levels 0 … L - 1 in order, by cumulative logits: P(level ≤ k) = σ(thresholds[k] - value)."""

    name: Literal["ordinal"] = "ordinal"
    thresholds: tuple[float, ...]
    """L - 1 rising numbers (score units)."""


class Binary(ValueFit):
    """Logistic loss: σ(value) is the probability that the label, from 0 to 1, is 1."""

    name: Literal["binary"] = "binary"


class PairObjective(Frozen):
    """A loss of the scores of two replies that a program has registered by name (`engine/objectives.py`)."""

    reads: ClassVar[str] = "values"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "preferred", "margin", "unit_weight")
    name: Literal["pair_objective"] = "pair_objective"
    objective: str
    """Its registered name."""


class PreferencePairs(Frozen):
    """Losses on pairs of replies through the policy's logprobs; `formula` is a name in functional/preference_losses.py.

    `weights` are 1 on the tokens of the reply, and nowhere else. `preferred` = P(the first of the unit is better), 0.5
    for a tie; `reference`: its logprob of the whole reply (nats), 0 for formulas without one; `baseline` (score units)
    is what rewards count from, for formulas that have that.
    """

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "preferred", "reference", "baseline", "unit_weight")
    name: Literal["preference"] = "preference"
    formula: str = "dpo"
    """Name of the formula."""
    settings: dict[str, float | str] = Field(default_factory=lambda: {"beta": 0.1})
    """Its keywords."""
    sft_coef: float = Field(default=0.0, ge=0)
    """Weight of the better reply's mean negative logprob a token (nats)."""


class Kto(Frozen):
    """Prospect-theoretic loss of single replies that are desirable or not (arXiv:2402.01306, eq. 8).

    `weights` are 1 on the tokens of the reply; `reference`: its logprob of the whole reply (nats); `desirable`: 1 or 0;
    `baseline`: the estimate z0 of KL(policy ‖ reference), nats.
    """

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("reference", "desirable", "baseline", "unit_weight")
    name: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0)
    """Price of a nat of distance from the reference (score units)."""
    desirable_weight: float = Field(default=1.0, gt=0)
    """λ_D, weight of the desirable replies."""
    undesirable_weight: float = Field(default=1.0, gt=0)
    """λ_U, weight of the others."""


ScoreLoss = BradleyTerry | TokenBradleyTerry | PlackettLuce | BestOfK | Regression | Ordinal | Binary | PairObjective
"""Losses of reward models."""

PolicyLoss = PpoClip | ImportanceSampling | Cispo | Dro | Gspo
"""Losses of sampled tokens against the logprobs of their sampler."""

LossSpec = CrossEntropy | PolicyLoss | KlPenalty | ReverseKl | ValueClip | ScoreLoss | PreferencePairs | Kto
