"""Settings of direct preference optimisation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.optim import AdamConfig


class DpoConfig(Frozen):
    """Direct preference optimisation, from pairs to a policy without a reward model."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs."""
    batch_size: int = Field(default=16, ge=1)
    """Pairs an optimizer step."""
    beta: float = Field(default=0.1, gt=0)
    """Price of a nat of distance from the reference (score units)."""
    ties: Literal["drop", "half"] = "drop"
    """Pairs judged equal: leave them out, or count each side one half."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-5)
    """Optimizer; 5e-7 to 5e-6 for full training, about ten times that for LoRA."""
    save_every: int = Field(default=20, ge=1)
    """Steps between checkpoints."""
