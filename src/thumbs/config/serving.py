"""What `thumbs serve` computes, samples and filters with: sections of a run, but for what clients decide."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from thumbs.config.base import Frozen
from thumbs.config.engine import EngineConfig, RolloutConfig, changed
from thumbs.config.safety import SafetyConfig


class ServingConfig(Frozen):
    """The sections `engine`, `rollout` and `safety` of a service."""

    engine: EngineConfig = EngineConfig()
    """What computes."""
    rollout: RolloutConfig = RolloutConfig()
    """What samples."""
    safety: SafetyConfig = SafetyConfig()
    """What looks at prompts and replies: its filters, and the guard that they may ask."""

    @model_validator(mode="after")
    def _leaves_the_rest_to_clients(self) -> Self:
        if unused := changed(self.rollout, "staleness", "cut_after_s"):
            names = ", ".join(f"rollout.{name}" for name in unused)
            raise ValueError(f"{names}: a client says how far its samples may be behind; leave it out")
        if unused := changed(self.safety, *(set(SafetyConfig.model_fields) - {"filters", "guard"})):
            names = ", ".join(f"safety.{name}" for name in unused)
            raise ValueError(f"{names}: a server has filters and a guard, and no gate; leave it out")
        if self.safety.guard is not None and "guard" not in (each.name for each in self.safety.filters):
            raise ValueError("safety.guard is asked by the filter `guard`; add it to safety.filters, or leave it out")
        return self
