"""What `thumbs serve` computes and samples with: the sections of a run, but for what clients decide."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from thumbs.config.base import Frozen
from thumbs.config.engine import EngineConfig, RolloutConfig, changed


class ServingConfig(Frozen):
    """The sections `engine` and `rollout` of a service."""

    engine: EngineConfig = EngineConfig()
    """What computes."""
    rollout: RolloutConfig = RolloutConfig()
    """What samples."""

    @model_validator(mode="after")
    def _leaves_the_rest_to_clients(self) -> Self:
        if unused := changed(self.rollout, "staleness", "cut_after_s"):
            names = ", ".join(f"rollout.{name}" for name in unused)
            raise ValueError(f"{names}: a client says how far its samples may be behind; leave it out")
        return self
