"""How a step is cut into minibatches of whole families, the same rule for PPO and for groups."""

from __future__ import annotations

from thumbs.config.base import Frozen


def misfit(config: Frozen, section: str, family: str) -> str | None:
    """What is wrong with batch_size, minibatch_size and the size named `family`, each a multiple of the next; None
    where they fit.
    """
    for whole, part in (("batch_size", "minibatch_size"), ("minibatch_size", family)):
        a, b = getattr(config, whole), getattr(config, part)
        if a % b:
            return f"{section}.{whole}={a} is not a multiple of {section}.{part}={b}"
    return None
