"""Settings of the reward model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.optim import AdamConfig


class RewardConfig(Frozen):
    """Bradley–Terry reward model: a scalar head on the last token, from the SFT weights."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs an optimizer step."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-4, head_learning_rate=1e-3)
    """Optimizer; the head is new, so it takes a higher rate."""
    center_coef: float = Field(default=0.01, ge=0)
    """Weight of (score_a + score_b)²."""
    use_margin: bool = False
    """Subtract the margin of each pair inside the sigmoid, as Llama 2 does."""
    ties: Literal["drop", "half"] = "half"
    """A tie either leaves the data or pulls the two scores together (target probability one half)."""
    freeze_backbone: bool = False
    """Train the head alone."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between held-out accuracies."""
    patience: int = Field(default=10, ge=1)
    """Stop after this many held-out evaluations without a lower loss."""
