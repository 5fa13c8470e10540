"""Frozen weights packed beforehand for the matrix library of the CPU; without that every product packs them again.

Packing counts where few rows meet a weight: with 8 to 64 rows a product takes 0.5 to 0.8 of the time without it
(benchmarks/products.py). No gradient flows through a prepacked weight.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def prepack(weight: Tensor) -> Tensor:
    """The weight [out, in] in oneDNN's layout where `linear` is faster for it, else the weight itself."""
    usable = weight.device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.cpu._is_avx2_supported()
    if weight.dtype == torch.bfloat16:
        usable = usable and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if not usable or weight.dtype not in (torch.float32, torch.bfloat16):
        return weight
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ (+ bias) of x [N, in] in x's dtype; `weight` as it is or prepacked."""
    bias = None if bias is None else bias.to(x.dtype)
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight.to(x.dtype), bias)
