"""What computes and what samples: the sections `engine:` and `rollout:`."""

from __future__ import annotations

from thumbs.config.base import Frozen


class EngineConfig(Frozen):
    """The engine that holds the models, computes their losses and takes their steps."""

    kind: str = "local"
    """local: this process, on one device; `module:name`: what opens an engine of your own (docs/concepts.md)."""
    device: str | None = None
    """A torch device, such as cpu or cuda:1; null: the fastest of this machine."""
    optimizer: str = "adamw"
    """adamw, a name given to register_optimizer, or `module:name` of a function that makes one of parameter groups."""


class RolloutConfig(Frozen):
    """What draws replies from the models of a run."""

    kind: str = "native"
    """native: our own decoder; `module:name`: what makes samplers of your own (docs/concepts.md)."""
