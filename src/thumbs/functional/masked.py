"""Sums, means, variances and whitening over the entries of a tensor whose mask is 1."""

from __future__ import annotations

from torch import Tensor


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
    the statistics.
    """
    mean = masked_mean(x, mask)
    white = (x - mean) * (masked_var(x, mask) + eps).rsqrt()
    if not shift_mean:
        white = white + mean
    return white.where(mask != 0, 0.0)
