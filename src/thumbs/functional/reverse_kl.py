"""How far a policy is from a reference over the whole vocabulary, without ever holding all logits; and its loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thumbs.functional.formulas import Loss
from thumbs.functional.masked import ratio


def divergence(hidden: Tensor, reference: Tensor, weight: Tensor, temperature: float = 1.0, chunk: int = 256) -> Tensor:
    """KL(p ‖ q) = Σ_v p_v (log p_v - log q_v) in nats, [M] in fp32 or wider.

    p = softmax(hidden · weightᵀ / temperature) and q the same of `reference`; hidden, reference [M, D], weight [V, D].
    Differentiable once, in `hidden` alone: reference and output embedding count as constants. `chunk` rows of logits
    are held at a time.
    """
    return Divergence.apply(hidden, reference, weight, temperature, chunk)


def reverse_kl(divergences: Tensor, weights: Tensor, temperature: float) -> Loss:
    """Σ w · T² · KL, with the metric mean: the same divided by Σ w. All [N]; KL at the temperature T, in nats.

    T² keeps the size of the gradient at any temperature (Hinton et al. 2015, arXiv:1503.02531, section 2.1).
    """
    loss = temperature**2 * (weights * divergences).sum()
    return loss, {"mean": ratio(loss.detach(), weights.sum())}


class Divergence(torch.autograd.Function):
    """The Function behind `divergence`.

    With logits z = hidden · weightᵀ / temperature, d KL / d z_v = p_v (log p_v - log q_v - KL); what follows for a row
    of `hidden` is one vector of width D, which the forward pass has at hand.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor, temperature: float, chunk: int) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = weight.to(hidden.dtype).to(wide)
        kl, slope = head.new_empty(len(hidden)), head.new_empty(hidden.shape)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, start + chunk)
            logp, logq = ((x[rows].to(wide) / temperature @ head.T).log_softmax(1) for x in (hidden, reference))
            probs, gap = logp.exp(), logp - logq
            kl[rows] = (probs * gap).sum(1)
            slope[rows] = probs.mul_(gap - kl[rows, None]) @ head / temperature
        ctx.save_for_backward(slope)
        ctx.dtype = hidden.dtype
        return kl

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (the decorator hides the name ctx)
        ctx: Any, *grad_outputs: Any
    ) -> tuple[Any, ...]:
        (slope,) = ctx.saved_tensors
        return (grad_outputs[0][:, None] * slope).to(ctx.dtype), None, None, None, None
