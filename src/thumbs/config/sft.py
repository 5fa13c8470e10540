"""Settings of supervised fine-tuning."""

from __future__ import annotations

from pydantic import Field

from thumbs.config.base import Frozen
from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig


class SftConfig(Frozen):
    """Supervised fine-tuning on conversations; the loss is on assistant turns only."""

    data: DataConfig
    """Conversations."""
    epochs: int = Field(default=2, ge=1)
    """Passes over the data."""
    batch_size: int = Field(default=16, ge=1)
    """Conversations an optimizer step."""
    optim: AdamConfig = AdamConfig(learning_rate=2e-4)
    """Optimizer; about 1e-4 to 5e-4 for LoRA, 1e-5 to 5e-5 for full training."""
    eval_every: int = Field(default=10, ge=1)
    """Steps between held-out losses; the best checkpoint by it is what the next stage takes."""
