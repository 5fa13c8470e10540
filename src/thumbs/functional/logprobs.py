"""Log probabilities of given tokens straight from hidden states, without ever holding all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 256
"""Rows of logits alive at a time."""


def target_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """Log softmax(hidden · weightᵀ / temperature) at the targets, and the entropy of that softmax, in nats.

    hidden [M, D], weight [V, D], targets int64 [M] → logprobs [M] and entropy [M] (None unless asked for),
    in fp32 or wider: logits are accumulated in fp32, because rounding them to bf16 biases the gradient.
    Differentiable once in hidden and weight. At most `chunk` rows of logits [chunk, V] exist at a time.
    An entropy that enters no loss costs no backward; one that does costs a second pass over the logits.
    """
    if not torch.is_grad_enabled():  # inside the Function this can no longer be seen
        hidden, weight = hidden.detach(), weight.detach()
    logprobs, entropy = TargetLogprobs.apply(hidden, weight, targets, temperature, with_entropy, chunk)
    return logprobs, entropy if with_entropy else None


class TargetLogprobs(torch.autograd.Function):
    """The Function behind `target_logprobs`.

    The gradient of log p(y) with respect to a row h is (w_y - Σ_v p_v w_v) / temperature: one vector of
    width D. With a frozen weight the forward pass takes it while the logits are there, and the backward
    pass touches none. Only a trained weight or an entropy in the loss makes the backward pass build the
    logits again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        with_entropy: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        wide = _wide(weight)
        logprobs = wide.new_empty(len(hidden))
        entropy = wide.new_zeros(len(hidden) if with_entropy else 0)
        keep_direction = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        direction = wide.new_empty(hidden.shape if keep_direction else 0)
        for rows in _slices(len(hidden), chunk):
            shifted = _shifted_logits(hidden[rows], wide, temperature)
            at_target = shifted.gather(1, targets[rows, None]).squeeze(1)
            powers = shifted.exp() if with_entropy else shifted.exp_()
            total = powers.sum(1)
            logprobs[rows] = at_target - total.log()
            if with_entropy:
                entropy[rows] = total.log() - shifted.mul_(powers).sum(1) / total
            if keep_direction:
                mean_weight = (powers @ wide).div_(total[:, None])
                direction[rows] = (wide[targets[rows]] - mean_weight).div_(temperature)
        ctx.save_for_backward(hidden, weight, targets, direction)
        ctx.temperature, ctx.chunk, ctx.keep_direction = temperature, chunk, keep_direction
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the name ctx)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        grad_logprobs, grad_entropy = grad_outputs
        if ctx.keep_direction and grad_logprobs is not None and grad_entropy is None:
            hidden, _, _, direction = ctx.saved_tensors
            return ((grad_logprobs[:, None] * direction).to(hidden.dtype), *(None,) * 5)
        return (*_gradients(ctx, grad_logprobs, grad_entropy), *(None,) * 4)


def _gradients(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Any, Any]:
    """Gradients of hidden and weight by building the logits again, chunk by chunk."""
    hidden, weight, targets, _ = ctx.saved_tensors
    wide = _wide(weight)
    grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
    grad_weight = torch.zeros_like(wide) if ctx.needs_input_grad[1] else None
    for rows in _slices(len(hidden), ctx.chunk):
        shifted = _shifted_logits(hidden[rows], wide, ctx.temperature)
        logp = shifted.sub_(shifted.exp().sum(1, keepdim=True).log_())
        probs = logp.exp()
        slope = torch.zeros_like(probs)
        if grad_logprobs is not None:  # d log p_y / d z = onehot(y) - p
            g = grad_logprobs[rows, None]
            slope.sub_(g * probs).scatter_add_(1, targets[rows, None], g)
        if grad_entropy is not None:  # d H / d z = -p (log p + H)
            entropy = -(probs * logp).sum(1, keepdim=True)
            slope.sub_(logp.add_(entropy).mul_(probs).mul_(grad_entropy[rows, None]))
        slope.div_(ctx.temperature)
        if grad_hidden is not None:
            grad_hidden[rows] = (slope @ wide).to(hidden.dtype)
        if grad_weight is not None:
            grad_weight.addmm_(slope.T, hidden[rows].to(wide.dtype))
    return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)


def _shifted_logits(hidden: Tensor, wide: Tensor, temperature: float) -> Tensor:
    """Logits [rows, V] at the temperature, less the maximum of each row."""
    logits = (hidden.to(wide.dtype) / temperature) @ wide.T
    return logits.sub_(logits.amax(1, keepdim=True))


def _wide(x: Tensor) -> Tensor:
    """x in fp32 or wider: exact for bf16; torch's CPU has no bf16 product with fp32 output."""
    return x if x.dtype == torch.float64 else x.float()


def _slices(n: int, chunk: int) -> list[slice]:
    return [slice(i, i + chunk) for i in range(0, n, chunk)]
