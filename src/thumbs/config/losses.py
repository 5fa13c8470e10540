"""The single source of loss names, the columns each needs, and their settings.

An algorithm is data preparation plus one of these. `engine/compute.py` joins a spec to its function; nothing else does.
The engine sums over targets; `weights` (and `pair_weight`) carry the normaliser.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from thumbs.config.base import Frozen


class CrossEntropy(Frozen):
    """- Σ weights · logprob(target): supervised fine-tuning, and the pretraining mix of PPO."""

    columns: ClassVar[tuple[str, ...]] = ("weights",)
    name: Literal["cross_entropy"] = "cross_entropy"


class PpoClip(Frozen):
    """The clipped policy objective of PPO, eq. 7 of arXiv:1707.06347."""

    columns: ClassVar[tuple[str, ...]] = ("weights", "logprobs", "advantages")
    name: Literal["ppo_clip"] = "ppo_clip"
    clip_range: float = Field(default=0.2, gt=0)
    """Half-width of the trusted interval of the ratio π/π_old, fraction."""
    entropy_coef: float = Field(default=0.0, ge=0)
    """Weight of the mean entropy (nats) that is added to the objective."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature of the rollouts; logprobs are taken at it."""


class ValueClip(Frozen):
    """Half the squared error of the values, with the clipped variant of the PPO2 code (maximum of the two)."""

    columns: ClassVar[tuple[str, ...]] = ("weights", "values", "returns")
    name: Literal["value_clip"] = "value_clip"
    clip_range: float | None = Field(default=0.2, gt=0)
    """How far a value may move from its old prediction (score units); null switches clipping off."""
    coef: float = Field(default=0.1, ge=0)
    """Weight of the value loss beside the policy loss."""


class BradleyTerry(Frozen):
    """Pairwise logistic loss on the scores of two replies; `preferred` = P(first is better), 0.5 for a tie."""

    columns: ClassVar[tuple[str, ...]] = ("weights",)
    sequence_columns: ClassVar[tuple[str, ...]] = ("pair", "preferred", "margin", "pair_weight")
    name: Literal["bradley_terry"] = "bradley_terry"
    center_coef: float = Field(default=0.0, ge=0)
    """Weight of (score_a + score_b)², which keeps scores near zero (arXiv:2312.09244)."""


class Dpo(Frozen):
    """Bradley–Terry on the implicit rewards beta · Σ weights · (logprob - reference logprob) of two replies.

    Rafailov et al. 2023, arXiv:2305.18290, eq. 7; `preferred` other than 1 makes it the conservative form.
    """

    columns: ClassVar[tuple[str, ...]] = ("weights", "reference_logprobs")
    sequence_columns: ClassVar[tuple[str, ...]] = ("pair", "preferred", "margin", "pair_weight")
    name: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    """Price of a nat of distance from the reference (score units)."""


LossSpec = CrossEntropy | PpoClip | ValueClip | BradleyTerry | Dpo
