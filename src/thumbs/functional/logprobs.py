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
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor]:
    """Log softmax(hidden · weightᵀ / temperature) at the targets, and the entropy of that softmax, in nats.

    hidden [M, D], weight [V, D] (taken in the dtype of hidden), targets int64 [M] → logprobs [M] and entropy [M], in
    fp32 or wider: logits are summed in fp32, because rounding them to bf16 biases the gradient.
    Differentiable once in hidden and weight. At most `chunk` rows of logits [chunk, V] exist at a time.
    An entropy that enters no loss costs nothing; one that does costs a second pass over the logits.
    """
    if not torch.is_grad_enabled():  # inside the Function this can no longer be seen
        hidden, weight = hidden.detach(), weight.detach()
    logprobs, entropy = TargetLogprobs.apply(hidden, weight, targets, temperature, chunk)
    return logprobs, entropy


class TargetLogprobs(torch.autograd.Function):
    """The Function behind `target_logprobs`.

    The gradient of log p(y) with respect to a row h is (w_y - Σ_v p_v w_v) / temperature: one vector of width D, which
    the forward pass has at hand. Only a trained weight or an entropy in the loss makes the backward pass build the
    logits again.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        normaliser, expected = softmax_over_vocabulary(hidden, weight, temperature, chunk)
        wide, at_target = _wide(hidden), _wide(weight[targets].to(hidden.dtype))
        logprobs = (wide * at_target).sum(1) / temperature - normaliser
        entropy = normaliser - (wide * expected).sum(1) / temperature  # Σ_v p_v z_v = h · Σ_v p_v w_v / temperature
        ctx.save_for_backward(hidden, weight, targets, normaliser, (at_target - expected).div_(temperature))
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the name ctx)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        grad_logprobs, grad_entropy = grad_outputs
        hidden, weight, targets, _, direction = ctx.saved_tensors
        g = direction.new_zeros(len(direction)) if grad_logprobs is None else grad_logprobs
        wanted_hidden, wanted_weight = ctx.needs_input_grad[:2]
        grad_hidden = g[:, None] * direction if wanted_hidden else None
        grad_weight = torch.zeros_like(_wide(weight)) if wanted_weight else None
        if grad_weight is not None or grad_entropy is not None:
            _through_logits(ctx, g, grad_entropy, grad_hidden, grad_weight)
        if grad_weight is not None:
            grad_weight.index_add_(0, targets, g[:, None] * _wide(hidden) / ctx.temperature)
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            *(None,) * 3,
        )


def softmax_over_vocabulary(
    hidden: Tensor, weight: Tensor, temperature: float, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """Of p = softmax(h · Wᵀ / temperature): the log of its denominator [M], and Σ_v p_v w_v [M, D]; fp32 or wider.

    That is attention of the hidden states to the rows of the output embedding, as keys and as values. On a CPU torch's
    flash kernel does it, block by block with sums in fp32, in three quarters of the time of whole rows of logits.
    """
    if hidden.device.type != "cpu" or not len(hidden):  # (the kernel divides by the number of rows)
        return softmax_in_chunks(hidden, weight, temperature, chunk)
    query, key = hidden[None, None], weight[None, None].to(hidden.dtype)
    expected, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, key, 0.0, False, scale=1 / temperature
    )
    return normaliser.flatten(), _wide(expected[0, 0])


def softmax_in_chunks(hidden: Tensor, weight: Tensor, temperature: float, chunk: int) -> tuple[Tensor, Tensor]:
    """The same by rows of logits, `chunk` at a time."""
    wide = _wide(weight.to(hidden.dtype))
    normaliser, expected = wide.new_empty(len(hidden)), wide.new_empty(hidden.shape)
    for rows in _slices(len(hidden), chunk):
        logits = _logits(hidden[rows], wide, temperature)
        normaliser[rows] = logits.logsumexp(1)
        expected[rows] = logits.sub_(normaliser[rows, None]).exp_() @ wide
    return normaliser, expected


def _through_logits(
    ctx: Any, g: Tensor, grad_entropy: Tensor | None, grad_hidden: Tensor | None, grad_weight: Tensor | None
) -> None:
    """Adds what flows through the softmax, chunk by chunk: to the weight's gradient, and the entropy's to both."""
    hidden, weight, _, normaliser, _ = ctx.saved_tensors
    wide = _wide(weight.to(hidden.dtype))
    for rows in _slices(len(hidden), ctx.chunk):
        logp = _logits(hidden[rows], wide, ctx.temperature).sub_(normaliser[rows, None])
        probs = logp.exp()
        by_entropy = None
        if grad_entropy is not None:  # d H / d z = -p (log p + H)
            entropy = -(probs * logp).sum(1, keepdim=True)
            by_entropy = logp.add_(entropy).mul_(probs).mul_(-grad_entropy[rows, None] / ctx.temperature)
            if grad_hidden is not None:
                grad_hidden[rows] += by_entropy @ wide
        if grad_weight is not None:  # d log p_y / d z = onehot(y) - p
            slope = probs.mul_(-g[rows, None] / ctx.temperature)
            slope = slope if by_entropy is None else slope.add_(by_entropy)
            grad_weight += slope.to(hidden.dtype).T @ hidden[rows]  # bf16 products, fp32 sums over the chunks


def _logits(hidden: Tensor, wide: Tensor, temperature: float) -> Tensor:
    return (hidden.to(wide.dtype) / temperature) @ wide.T


def _wide(x: Tensor) -> Tensor:
    """x in fp32 or wider: exact for bf16; torch's CPU has no bf16 product with fp32 output."""
    return x if x.dtype == torch.float64 else x.float()


def _slices(n: int, chunk: int) -> list[slice]:
    return [slice(i, i + chunk) for i in range(0, n, chunk)]
