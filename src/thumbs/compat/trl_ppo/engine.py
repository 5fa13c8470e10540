"""What a step API needs beyond the eight verbs: modules, any optimizer, minibatches that are turned down."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from thumbs.config.losses import LossSpec
from thumbs.engine import open_engine
from thumbs.engine.base import Handle
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Model, ModuleEngine
from thumbs.errors import NonFiniteError
from thumbs.records import Example, TrainOutput


def open_here() -> ModuleEngine:
    """An engine whose modules are in this process."""
    engine = open_engine()
    assert isinstance(engine, ModuleEngine)  # noqa: S101 (the default engine is local)
    return engine


def hidden(model: Model, sequences: Sequence[Tensor]) -> Tensor:
    """Final hidden states [N, D] of sequences laid end to end, with gradients where torch has them on."""
    tokens, lengths = torch.cat(list(sequences)), [len(sequence) for sequence in sequences]
    return model.hidden(Batch(list(range(len(lengths))), lengths, tokens, tokens, {}, {}))


def trained(model: Model) -> list[nn.Parameter]:
    """The parameters that an optimizer step may move."""
    return [parameter for parameter in model.trained().values() if parameter.requires_grad]


def forward_backward_if(
    engine: ModuleEngine,
    handle: Handle,
    data: Sequence[Example],
    losses: Sequence[LossSpec],
    wanted: Callable[[TrainOutput], bool],
) -> TrainOutput:
    """`forward_backward` whose gradients are added only if its output is `wanted`."""
    with engine.model(handle).trial() as keep:
        output = engine.forward_backward(handle, data, losses)
        if wanted(output):
            keep()
    return output


def apply(model: Model, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Clips, steps `optimizer`, clears; returns the gradient norm before clipping.

    Without any gradient nothing moves. Raises NonFiniteError, and steps nothing, when one is not finite.
    """
    parameters = [parameter for parameter in trained(model) if parameter.grad is not None]
    if not parameters:
        return 0.0
    norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
    if not math.isfinite(norm):
        model.clear()
        raise NonFiniteError(f"{model.spec.name}: the gradient norm became {norm}; lower the learning rate")
    optimizer.step()
    model.clear()
    model.steps += 1
    return norm
