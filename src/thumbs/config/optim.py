"""Optimizer and schedule settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from thumbs.config.base import Frozen


class AdamConfig(Frozen):
    """AdamW with gradient clipping and a learning-rate schedule."""

    learning_rate: float = Field(default=1e-4, ge=0)
    """Peak rate of the trunk or its adapters, per step."""
    head_learning_rate: float | None = Field(default=None, ge=0)
    """Peak rate of the scalar head; null: as the trunk."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape of the rate after the warm-up; linear and cosine end at 0."""
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Fraction of all steps over which the rate climbs linearly from 0."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay, per step and learning rate."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this L2 norm."""
