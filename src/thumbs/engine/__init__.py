"""Engines: what holds models, computes their losses and takes their steps. `open_engine` is the one way to get one."""

from __future__ import annotations

from collections.abc import Callable

from thumbs.config.engine import EngineConfig, RolloutConfig
from thumbs.config.named import Registry
from thumbs.engine.base import OpenEngine
from thumbs.rollout.sampler import DecodeText

__all__ = ["ENGINES", "OpenEngine", "open_engine"]

MakeEngine = Callable[[EngineConfig, RolloutConfig, DecodeText | None], OpenEngine]

ENGINES: Registry[MakeEngine] = Registry(
    "engine.kind", {"local": "thumbs.engine.local:open_local", "cluster": "thumbs.engine.journal:open_cluster"}
)
"""What opens an engine of each kind."""


def open_engine(
    config: EngineConfig | None = None, decode_text: DecodeText | None = None, rollout: RolloutConfig | None = None
) -> OpenEngine:
    """The engine that a config's sections ask for (None: the default); `decode_text` lets samplers see stop strings."""
    chosen = config or EngineConfig()
    return ENGINES[chosen.kind](chosen, rollout or RolloutConfig(), decode_text)
