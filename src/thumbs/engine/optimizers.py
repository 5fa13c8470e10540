"""Optimizers by name: AdamW, and what a program registers; their state as tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thumbs.engine.base import AdamStep
from thumbs.errors import ConfigError

Groups = list[dict[str, Any]]
"""Parameter groups as torch takes them: `params`, and the `name` of the part, trunk or scalar."""

ADAMW = "adamw"

_OPTIMIZERS: dict[str, Callable[[Groups], Optimizer]] = {
    ADAMW: lambda groups: torch.optim.AdamW(groups, lr=0.0, fused=True)  # one pass over weights and moments, not ten
}


def register_optimizer(name: str, make: Callable[[Groups], Optimizer]) -> None:
    """Gives an optimizer a name; `make` takes parameter groups and sets everything but the learning rate.

    The rate of each step comes from the stage, the trunk's and the head's apart, and gradients are clipped before. The
    state must be tensors or numbers by parameter, as in torch's own optimizers, so that a run can be resumed.
    Raises ConfigError where the name is taken by another one.
    """
    if _OPTIMIZERS.get(name, make) is not make:
        raise ConfigError(f"optimizer {name!r} is there already; choose another name")
    _OPTIMIZERS[name] = make


def check_optimizer(name: str) -> None:
    """Raises ConfigError for a name that nobody registered."""
    if name not in _OPTIMIZERS:
        raise ConfigError(
            f"optimizer: got {name!r}; allowed are {', '.join(sorted(_OPTIMIZERS))}, and what register_optimizer adds"
        )


def make_optimizer(name: str, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """The optimizer of that name for parameters whose names begin with their part; rates are set at each step."""
    check_optimizer(name)
    groups: Groups = []
    for part in ("trunk", "scalar"):
        members = [p for key, p in parameters.items() if key.startswith(part + ".")]
        if members:
            groups.append({"params": members, "name": part})
    if not groups:
        raise ConfigError("this model has nothing to train")
    return _OPTIMIZERS[name](groups)


def set_rates(name: str, optimizer: Optimizer, adam: AdamStep) -> None:
    """Settings of this step; a part whose rate is 0 is left untouched, its weights and its moments."""
    rates = {"trunk": adam.learning_rate, "scalar": adam.head_learning_rate}
    for group in optimizer.param_groups:
        group["lr"] = rates[group["name"]]
        if name == ADAMW:
            group.update(betas=(adam.beta1, adam.beta2), eps=adam.eps, weight_decay=adam.weight_decay)
        if group["lr"] == 0:
            for parameter in group["params"]:
                parameter.grad = None


def optimizer_tensors(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What the optimizer remembers of each parameter, as `name:key`."""
    return {
        f"{name}:{key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(
    optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`; raises ValueError for parameters that are not trained here."""
    unknown = {key.rpartition(":")[0] for key in tensors} - parameters.keys()
    if unknown:
        raise ValueError(f"moments of {sorted(unknown)[:3]}, which this model does not train")
    for name, parameter in parameters.items():
        state = {k.rpartition(":")[2]: v for k, v in tensors.items() if k.rpartition(":")[0] == name}
        if state:
            optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}
