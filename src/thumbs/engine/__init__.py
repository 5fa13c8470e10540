"""Engines: what holds models, computes their losses and takes their steps. `open_engine` is the one way to get one."""

from __future__ import annotations

from collections.abc import Callable

from thumbs.config.engine import EngineConfig
from thumbs.config.named import Registry
from thumbs.engine.base import OpenEngine

__all__ = ["ENGINES", "OpenEngine", "open_engine"]

DecodeText = Callable[[list[int]], str]

ENGINES: Registry[Callable[[EngineConfig, DecodeText | None], OpenEngine]] = Registry(
    "engine.kind", {"local": "thumbs.engine.local:open_local"}
)
"""What opens an engine of each kind."""


def open_engine(config: EngineConfig | None = None, decode_text: DecodeText | None = None) -> OpenEngine:
    """The engine that a config asks for (None: the default one); `decode_text` lets its samplers see stop strings."""
    chosen = config or EngineConfig()
    return ENGINES[chosen.kind](chosen, decode_text)
