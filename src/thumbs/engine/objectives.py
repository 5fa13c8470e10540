"""Reward objectives that a program registers by name: functions of the scores of chosen and rejected replies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thumbs.config.named import Registry
from thumbs.errors import ConfigError
from thumbs.functional.reward_losses import FORMULAS

Objective = Callable[[Tensor, Tensor], Tensor]
"""(chosen scores [P], rejected scores [P]) → one loss per pair [P], or their mean."""

OBJECTIVES: Registry[Objective] = Registry("reward objective", {})
"""Objectives of pairs by name; `register_reward_objective` tries them out first."""


def register_reward_objective(name: str, objective: Objective) -> None:
    """Gives an objective of reward models a name; `objective` maps chosen and rejected scores [P] to losses [P] or
    their mean.

    It is tried on three pairs. Raises ConfigError if the name is taken by another one, where the result has no
    gradient or is not finite, and where the loss of a pair depends on the other pairs: which pairs are computed
    together is the engine's affair and must not change what is learned.
    """
    if name in FORMULAS:
        raise ConfigError(f"reward objective {name!r} is there already; choose another name")
    _try_out(name, objective)
    OBJECTIVES.register(name, objective)


def is_objective(name: str) -> bool:
    """Whether the name is a registered one, or a `module:name`."""
    return name in OBJECTIVES or ":" in name


def pair_losses(name: str, chosen: Tensor, rejected: Tensor) -> Tensor:
    """The losses [P] of an objective; of one that gives their mean, that mean for each pair."""
    if name not in OBJECTIVES and ":" in name:
        register_reward_objective(name, OBJECTIVES[name])
    return OBJECTIVES[name](chosen, rejected).expand(len(chosen))


def _try_out(name: str, objective: Objective) -> None:
    chosen = torch.tensor([1.0, -0.5, 0.3], requires_grad=True)
    rejected = torch.tensor([0.2, 0.4, -1.0], requires_grad=True)
    with torch.enable_grad():
        found = objective(chosen, rejected)
    if not isinstance(found, Tensor) or found.shape not in ((), (3,)) or not torch.isfinite(found).all():
        raise ConfigError(f"reward objective {name!r} gave {found!r} for 3 pairs; allowed are losses [3] or their mean")
    if not found.requires_grad:
        raise ConfigError(f"reward objective {name!r} has no gradient; compute it with torch from the scores")
    alone = torch.stack([objective(chosen[i : i + 1], rejected[i : i + 1]).reshape(()) for i in range(3)])
    if not torch.allclose(found, alone if found.ndim else alone.mean(), atol=1e-5):
        raise ConfigError(
            f"reward objective {name!r} gives a pair another loss in other company; return a loss for each "
            "pair, or their mean"
        )
