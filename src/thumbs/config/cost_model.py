"""Settings of the cost model, which says how likely a reply is to be unsafe."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.reward_model import RewardMethod, RewardModelConfig

_METHOD = RewardMethod(
    "cost",
    "Safe RLHF's cost model",
    "Dai et al. 2023, arXiv:2310.12773 (the cost model); safe-rlhf, values/cost/trainer.py",
    "pairs of replies that are safe or not; which is more harmful, and on which side of zero each one is",
    "safety",
    "cost",
)


class CostModelConfig(Frozen):
    """Cost model: a scalar head on the last token, from the SFT weights, calibrated to P(unsafe)."""

    data: DataConfig
    """Pairs of replies that are safe or not, in PKU-SafeRLHF's columns (docs/data.md). Half of its held-out prompts
    choose the checkpoint and calibrate, the other half is what calibration and AUROC are reported on.
    """
    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs an optimizer step."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-4, head_learning_rate=1e-3)
    """Optimizer; the head is new, so it takes a higher rate."""
    freeze_backbone: bool = False
    """Train the head alone."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between held-out losses."""
    patience: int = Field(default=10, ge=1)
    """Stop after this many held-out evaluations without a lower loss."""

    def training(self) -> RewardModelConfig:
        """The settings of the stage that trains scalar heads."""
        return _Training(loss=_METHOD.name, **dict(self))


class _Training(RewardModelConfig):
    """As a reward model is trained, on pairs that are safe or not."""

    @property
    def method(self) -> RewardMethod:
        return _METHOD
