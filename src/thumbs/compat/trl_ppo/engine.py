"""The local engine, and what a step API needs of it beyond the eight verbs: its modules, its weights, any optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from thumbs.config.losses import LossSpec
from thumbs.engine.base import Handle, ModelSpec
from thumbs.engine.batch import Batch
from thumbs.engine.compute import Network
from thumbs.engine.local import LocalEngine
from thumbs.errors import NonFiniteError
from thumbs.records import Datum, TrainOutput


class StepEngine(LocalEngine):
    """A local engine whose user may look at logits, bring an optimizer and turn a minibatch down."""

    def network(self, handle: Handle) -> Network:
        """The modules behind a handle."""
        return self._models[handle.id].network

    def spec(self, handle: Handle) -> ModelSpec:
        """What the model was made from."""
        return self._models[handle.id].spec

    def hidden(self, handle: Handle, sequences: Sequence[Tensor]) -> Tensor:
        """Final hidden states [N, D] of sequences laid end to end, with gradients where torch has them on."""
        tokens = torch.cat(list(sequences))
        lengths = [len(sequence) for sequence in sequences]
        batch = Batch(list(range(len(lengths))), lengths, tokens, tokens, {}, {})
        return self.network(handle).hidden(batch)

    def trained(self, handle: Handle) -> list[nn.Parameter]:
        """The parameters that an optimizer step may move."""
        return [parameter for parameter in self._models[handle.id].trained().values() if parameter.requires_grad]

    def forward_backward_if(
        self, handle: Handle, data: Sequence[Datum], losses: Sequence[LossSpec], keep: Callable[[TrainOutput], bool]
    ) -> TrainOutput:
        """`forward_backward` whose gradients are added only if `keep` says so of its output."""
        parameters = self.trained(handle)
        before = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            parameter.grad = None
        output = self.forward_backward(handle, data, losses)
        kept = keep(output)
        for parameter, grad in zip(parameters, before, strict=True):
            if not kept or parameter.grad is None:
                parameter.grad = grad
            elif grad is not None:
                parameter.grad += grad
        return output

    def apply(self, handle: Handle, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
        """Clips, steps `optimizer`, clears; returns the gradient norm before clipping.

        Without any gradient nothing moves. Raises NonFiniteError, and steps nothing, when one is not finite.
        """
        model = self._models[handle.id]
        parameters = [parameter for parameter in self.trained(handle) if parameter.grad is not None]
        if not parameters:
            return 0.0
        norm = float(nn.utils.clip_grad_norm_(parameters, max_grad_norm))
        if not math.isfinite(norm):
            self._clear(model)
            raise NonFiniteError(f"{handle.name}: the gradient norm became {norm}; lower the learning rate")
        optimizer.step()
        self._clear(model)
        model.steps += 1
        return norm
