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


class Dpo(Frozen):
    """Bradley–Terry on the implicit rewards beta · Σ weights · (logprob - reference logprob) of two replies.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7; `preferred` other than 1 makes it the conservative form.
    """

    reads: ClassVar[str] = "logprobs"
    columns: ClassVar[tuple[str, ...]] = ("weights", "reference_logprobs")
    sequence_columns: ClassVar[tuple[str, ...]] = ("unit", "preferred", "margin", "unit_weight")
    name: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """Price of a nat of distance from the reference (score units)."""


LossSpec = CrossEntropy | PpoClip | ImportanceSampling | Cispo | Dro | Gspo | ReverseKl | ValueClip | BradleyTerry | Dpo
