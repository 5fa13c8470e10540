"""Which number format to compute in, decided once and with its reason."""

from __future__ import annotations

import logging

import torch

from thumbs.config.model import ModelConfig

log = logging.getLogger(__name__)


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """bfloat16 or float32 for `config.dtype`; "auto" takes bfloat16 where the processor multiplies it faster."""
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if config.name.startswith("byte-"):
        return torch.float32  # so small that conversions cost more than the products
    fast = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    log.info("%s: %s", "bfloat16" if fast else "float32", "matrix units" if fast else "no bfloat16 matrix units")
    return torch.bfloat16 if fast else torch.float32


def device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
