"""Byte-level models from scratch: the same decoder, small, with random weights made from a seed."""

from __future__ import annotations

import torch
from torch import nn

from thumbs.errors import ModelError
from thumbs.models.causal_lm import CausalLM
from thumbs.models.decoder_config import DecoderConfig


def _shape(width: int, intermediate: int, layers: int, heads: int, context: int) -> DecoderConfig:
    return DecoderConfig(
        architecture="LlamaForCausalLM",
        vocab_size=260,
        width=width,
        intermediate=intermediate,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=width // heads,
        context=context,
    )


SIZES = {
    "byte-tiny": _shape(width=128, intermediate=352, layers=4, heads=4, context=256),
    "byte-small": _shape(width=256, intermediate=704, layers=6, heads=8, context=512),
}


def byte_shape(name: str) -> DecoderConfig:
    """The shape of a byte model; raises ModelError for an unknown name."""
    if name not in SIZES:
        raise ModelError(f"no byte model {name!r}; there are {', '.join(SIZES)}")
    return SIZES[name]


def build_byte_lm(name: str, seed: int, dtype: torch.dtype) -> CausalLM:
    """An untrained decoder over 260 symbols (256 bytes, PAD, BOS, SEP, EOS); matrices are normal, deviation 0.02."""
    model = CausalLM(byte_shape(name), dtype)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.02, generator=generator)
    return model
