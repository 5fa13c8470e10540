"""A step of decoding as a list of kernel calls on buffers made once, so that Python does nothing a layer but call.

With 16 rows of a 135M model, making tensors and choosing operators was a tenth of the time (docs/log.md). The numbers
are those of `CausalLM`'s own layers on the same packed weights, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from thumbs.models import kernels
from thumbs.models.decoder_config import DecoderConfig
from thumbs.models.kv_cache import KVCache
from thumbs.models.operators import Angles


class DecodingPlan:
    """The calls for the rows of one cache; wants a new one when the cache's tensors are replaced.

    config, layers, norm: those of a `CausalLM`, the norm that after the last layer.
    """

    @staticmethod
    def fits(config: DecoderConfig, layers: Sequence[Any], norm: Tensor) -> bool:
        """Whether every layer is packed for our kernels and has no parts that they do not know."""
        c = config
        packed = (weight.ndim == 3 for b in layers for weight in (b.qkv, b.output, b.gate_up, b.down))
        plain = c.plain and not c.qkv_bias and not c.qk_norm
        return plain and kernels.usable(norm, c.width, c.head_dim // 2, c.intermediate) and all(packed)

    def __init__(self, config: DecoderConfig, layers: Sequence[Any], norm: Tensor, cache: KVCache) -> None:
        c, rows, like = config, len(cache.lengths), norm
        attention = c.heads * c.head_dim
        mixed_width = attention + 2 * c.kv_heads * c.head_dim
        self.x, normed = like.new_empty(rows, c.width), like.new_empty(rows, c.width)
        mixed, attended = like.new_empty(rows, mixed_width), like.new_empty(rows, attention)
        gate_up, gated = like.new_empty(rows, 2 * c.intermediate), like.new_empty(rows, c.intermediate)
        self.cos, self.sin = (like.new_empty(rows, c.head_dim, dtype=torch.float32) for _ in range(2))
        self.lengths, scale = torch.empty_like(cache.lengths), like.new_empty(rows, dtype=torch.float32)
        self.calls: list[Callable[[], None]] = []

        def add(name: str, *arguments: Tensor | int | float | None) -> None:
            self.calls.append(kernels.bind(name, like, *arguments))

        def normalise(weight: Tensor) -> None:
            add("rms_norm", self.x, weight, normed, scale, rows, c.width, c.rms_eps)

        def linear(x: Tensor, weight: Tensor, y: Tensor, plus: Tensor | None = None) -> None:
            add("linear", x, weight, plus, y, rows, y.shape[1], x.shape[1])

        heads = (c.heads, c.kv_heads, c.head_dim)
        for keys, values, layer in zip(cache.keys, cache.values, layers, strict=True):
            normalise(layer.attention_norm)
            linear(normed, layer.qkv, mixed)
            tensors = (mixed, self.cos, self.sin, keys, values, self.lengths, attended)
            add("cached_attention", *tensors, rows, keys.shape[2], *heads)
            linear(attended, layer.output, self.x, plus=self.x)
            normalise(layer.mlp_norm)
            linear(normed, layer.gate_up, gate_up)
            add("swiglu", gate_up, gated, rows, c.intermediate)
            linear(gated, layer.down, self.x, plus=self.x)
        normalise(norm)
        self.hidden = normed

    def step(self, x: Tensor, angles: Angles, lengths: Tensor) -> Tensor:
        """Final hidden states [B, D] of states x [B, D] that enter layer 0; valid until the next step."""
        self.x.copy_(x)
        self.cos.copy_(angles.cos)
        self.sin.copy_(angles.sin)
        self.lengths.copy_(lengths)
        for call in self.calls:
            call()
        return self.hidden
