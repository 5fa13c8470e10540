"""Frozen weights packed beforehand for products with few rows; without that every product packs them again.

In our own layout a product with 1 to 64 rows takes 0.7 to 0.8 of the time that it takes in oneDNN's, which takes 0.5 to
0.8 of the time without any (benchmarks/products.py). oneDNN's is for processors with matrix units (AMX), which our
kernels do not use. No gradient flows through a prepacked weight.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thumbs.errors import ModelError
from thumbs.models import kernels


def prepack(weight: Tensor) -> Tensor:
    """The weight [out, in] in the layout in which `linear` is fastest for it, or the weight itself.

    Raises ModelError for a weight that is spread over ranks, of which only a part is here.
    """
    if type(weight) not in (Tensor, nn.Parameter):
        raise ModelError(f"got a {type(weight).__name__} of {tuple(weight.shape)}; gather a weight before it is packed")
    if weight.device.type != "cpu" or weight.dtype not in (torch.float32, torch.bfloat16):
        return weight
    matrix_units = weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported()
    if not matrix_units and kernels.packable(weight):
        return kernels.pack(weight)
    usable = torch.backends.mkldnn.is_available() and torch.cpu._is_avx2_supported()
    if weight.dtype == torch.bfloat16:
        usable = usable and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous()) if usable else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, plus: Tensor | None = None) -> Tensor:
    """x Wᵀ (+ bias) (+ plus [N, out]) of x [N, in] in x's dtype; `weight` as it is or prepacked."""
    bias = None if bias is None else bias.to(x.dtype)
    if weight.ndim == 3:
        y = kernels.linear(x, weight, plus)
        return y if bias is None else y.add_(bias)
    if weight.is_mkldnn:
        y = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    else:
        y = F.linear(x, weight.to(x.dtype), bias)
    return y if plus is None else plus + y


def logits(x: Tensor, weight: Tensor) -> Tensor:
    """x Wᵀ in float32; in our layout the sums themselves, else as rounded to x's dtype."""
    return kernels.logits(x, weight) if weight.ndim == 3 else linear(x, weight).float()
