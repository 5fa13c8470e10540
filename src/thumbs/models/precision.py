"""Which number format to compute in, decided once and with its reason."""

from __future__ import annotations

import logging

import torch

from thumbs.config.model import ModelConfig

log = logging.getLogger(__name__)


def compute_dtype(config: ModelConfig, on: torch.device | None = None) -> torch.dtype:
    """bfloat16 or float32 for `config.dtype`; "auto" takes bfloat16 where the device `on` (None: the fastest here)
    multiplies it faster.
    """
    if config.dtype != "auto":
        return getattr(torch, config.dtype)
    if config.name.startswith("byte-"):
        return torch.float32  # so small that conversions cost more than the products
    if multiplies_bfloat16(on):
        log.info("bfloat16: the processor multiplies it")
        return torch.bfloat16
    log.info("float32: the processor has no products of bfloat16")
    return torch.float32


def multiplies_bfloat16(on: torch.device | None = None) -> bool:
    """Whether products of bfloat16 are an instruction there: on a GPU, Intel's AMX, or AVX-512 with its BF16 part.

    On AMD's Zen 5, without matrix units, they take a quarter of the time of float32's.
    """
    if torch.cuda.is_available() and (on is None or on.type == "cuda"):
        return True
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def device() -> torch.device:
    """CUDA where there is one, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
