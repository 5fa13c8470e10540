"""What an engine hands to its samplers: the weights of a model at one moment, here or as a folder for others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeAlias

from thumbs.config.engine import RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.config.named import Registry
from thumbs.models.base import Trunk
from thumbs.rollout.sampler import DecodeText, Sampler


class Published(Protocol):
    """Weights to sample from. They are those of the moment at which `trunk` or `write` is called, so call it at once.

    seed: of the base, which a byte model is made of. version: optimizer steps that the weights took.
    decode_text: text of tokens, which stop strings need; None if nothing decodes.
    """

    model: ModelConfig
    seed: int
    version: int
    decode_text: DecodeText | None

    def trunk(self) -> Trunk:
        """A frozen copy in this process, adapter included."""
        ...

    def write(self, folder: Path) -> dict[str, str]:
        """Writes a checkpoint folder (PEFT or Hugging Face format), atomically; returns SHA-256 of each tensor."""
        ...


OpenSampler: TypeAlias = Callable[[Published], Sampler]
"""Makes a sampler of published weights; an engine has one of these for as long as it lives."""

SAMPLERS: Registry[Callable[[RolloutConfig], OpenSampler]] = Registry(
    "rollout.kind", {"native": "thumbs.rollout.native:native_samplers"}
)
"""What draws from an engine's models."""
