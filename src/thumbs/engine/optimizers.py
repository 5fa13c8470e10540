"""Optimizers by name: AdamW, and what a program registers; their state as tensors, for checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thumbs.config.named import Registry
from thumbs.engine.base import AdamStep
from thumbs.errors import ConfigError

Groups = list[dict[str, Any]]
"""Parameter groups as torch takes them: `params`, and the `name` of the part, trunk or scalar."""

ADAMW = "adamw"

_NEVER_NEGATIVE = ("step", "exp_avg_sq", "max_exp_avg_sq")
"""Names that torch's optimizers give to counts and to means of squares."""


def adamw(groups: Groups) -> Optimizer:
    """AdamW; fused is one pass over weights and moments, not ten."""
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


OPTIMIZERS: Registry[Callable[[Groups], Optimizer]] = Registry("optimizer", {ADAMW: adamw})
"""What makes an optimizer of parameter groups, by name."""


def register_optimizer(name: str, make: Callable[[Groups], Optimizer]) -> None:
    """Gives an optimizer a name; `make` takes parameter groups and sets everything but the learning rate.

    The rate of each step comes from the stage, the trunk's and the head's apart, and gradients are clipped before. The
    state must be tensors or numbers by parameter, as in torch's own optimizers, so that a run can be resumed.
    Raises ConfigError if the name is taken by another one.
    """
    OPTIMIZERS.register(name, make)


def make_optimizer(name: str, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """The optimizer of that name for parameters whose names begin with their part; rates are set at each step."""
    make = OPTIMIZERS[name]
    groups: Groups = []
    for part in ("trunk", "scalar"):
        members = [p for key, p in parameters.items() if key.startswith(part + ".")]
        if members:
            groups.append({"params": members, "name": part})
    if not groups:
        raise ConfigError("this model has nothing to train")
    return make(groups)


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
    name: str, optimizer: Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors` for the optimizer of that name, which changes only if all of the state fits.

    Raises ValueError that names the tensor: of a parameter that is not trained here, missing, left over, of another
    shape than this optimizer's, no floats where it has floats, or not finite. Kernels trust what they find there, and
    read and write beyond moments that are too short.
    """
    states: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        parameter, _, part = key.rpartition(":")
        states.setdefault(parameter, {})[part] = tensor
    if unknown := sorted(states.keys() - parameters.keys()):
        raise ValueError(f"moments of {unknown[:3]}, which this model does not train")
    twins: dict[tuple[str, torch.Size, torch.dtype], dict[str, Tensor]] = {}
    fitting: dict[str, dict[str, Tensor]] = {}
    for owner, state in states.items():
        parameter = parameters[owner]
        kind = (owner.partition(".")[0], parameter.shape, parameter.dtype)
        if kind not in twins:
            twins[kind] = _state_of_twin(name, kind[0], parameter)
        fitting[owner] = {key: tensor.to(parameter.device) for key, tensor in _checked(owner, state, twins[kind])}
    for owner, state in fitting.items():
        optimizer.state[parameters[owner]] = state


def _state_of_twin(name: str, part: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizer keeps of a parameter like this one: it takes a step on a copy, without a gradient."""
    twin = nn.Parameter(torch.zeros_like(parameter))
    twin.grad = torch.zeros_like(twin)
    trial = OPTIMIZERS[name]([{"params": [twin], "name": part, "lr": 0.0}])
    trial.step()
    return {key: torch.as_tensor(value) for key, value in trial.state.get(twin, {}).items() if value is not None}


def _checked(owner: str, state: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The state in the dtypes of `like`; raises ValueError if it does not fit."""
    if state.keys() != like.keys():
        missing, extra = sorted(like.keys() - state.keys()), sorted(state.keys() - like.keys())
        raise ValueError(f"the state of {owner} lacks {missing or 'nothing'} and has {extra or 'nothing'} too many")
    for key, wanted in like.items():
        tensor, name = state[key], f"{owner}:{key}"
        if tensor.shape != wanted.shape:
            raise ValueError(f"{name} has the shape {list(tensor.shape)}; this model needs {list(wanted.shape)}")
        if tensor.dtype != wanted.dtype and not (tensor.is_floating_point() and wanted.is_floating_point()):
            raise ValueError(f"{name} is {tensor.dtype}; this optimizer keeps {wanted.dtype}")
        tensor = tensor.to(wanted.dtype)
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} holds NaN or infinite numbers")
        if key in _NEVER_NEGATIVE and bool((tensor < 0).any()):
            raise ValueError(f"{name} holds negative numbers")
        yield key, tensor
