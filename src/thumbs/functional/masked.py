"""Sums, means, variances and whitening over the entries of a tensor whose mask is 1."""

from __future__ import annotations

import torch
from torch import Tensor


def places(mask: Tensor) -> tuple[Tensor, ...]:
    """Where the mask is not 0, as indices: a GPU is waited for once, and not again for each tensor that they index, as
    it would be by the mask itself.
    """
    return mask.nonzero(as_tuple=True)


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, or 0 if the whole is 0."""
    return torch.where(whole != 0, part / whole, 0.0)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x where mask is not 0, a scalar; what stands under mask 0 (NaN too) does not matter."""
    return x[mask != 0].sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x where mask is not 0, a scalar; 0 when nothing is."""
    return masked_sum(x, mask) / (mask != 0).sum().clamp(min=1)


def masked_var(x: Tensor, mask: Tensor) -> Tensor:
    """Population variance (divided by n, not n - 1) of x where mask is not 0, a scalar; 0 when nothing is."""
    return masked_mean((x - masked_mean(x, mask)) ** 2, mask)


def whiten(x: Tensor, mask: Tensor, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the entries with mask not 0, and 0 elsewhere; same shape as x.

    shift_mean=False adds the mean back, so that only the scale changes (lm-human-preferences, `whiten`,
    which does so for rewards; Ziegler et al. 2019, arXiv:1909.08593). Unlike there, padding never enters
    the statistics. Equal entries have no deviation, however large they are.
    """
    counted = x[mask != 0]
    if not len(counted):
        return torch.zeros_like(x)
    # As differences from one of them: the mean of equal numbers need not be that number, as sums round.
    from_first = x - counted[0]
    mean = masked_mean(from_first, mask)
    white = (from_first - mean) * (masked_var(from_first, mask) + eps).rsqrt()
    if not shift_mean:
        white = white + (mean + counted[0])
    return white.where(mask != 0, 0.0)
