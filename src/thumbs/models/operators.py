"""What the decoder does between its products: in the compiled kernels where they take the tensors, else in torch.

The two compute the same; the kernels round to the tensor's dtype once, at the end (tests/unit/models/test_kernels.py).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from thumbs.functional.logprobs import NarrowVocabulary, Vocabulary
from thumbs.models import kernels, packed_attention
from thumbs.models.kv_cache import KVCache
from thumbs.models.rows import Rows


class Heads(NamedTuple):
    """Query heads, key heads (each serves query/key of them), and numbers in a head."""

    query: int
    key: int
    width: int

    @property
    def mixed(self) -> int:
        """Width of queries, keys and values side by side, as one product gives them."""
        return (self.query + 2 * self.key) * self.width


class Angles(NamedTuple):
    """cos and sin of the rotary angles [N, C] in float32, the two halves repeated as Hugging Face lays them out."""

    cos: Tensor
    sin: Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) · weight over the last dimension; the mean is taken in float32 (arXiv:1910.07467)."""
    weight = weight.to(x.dtype)
    if kernels.usable(x, x.shape[-1]):
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        grad = torch.is_grad_enabled()
        return (kernels.RmsNorm.apply(rows, weight, eps) if grad else kernels.rms_norm(rows, weight, eps)[0]).view_as(x)
    wide = x.float()
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) · up of rows [N, 2 D] that hold gate and up side by side (arXiv:2002.05202, eq. 6)."""
    if kernels.usable(x, x.shape[1] // 2):
        return kernels.SwiGlu.apply(x) if torch.is_grad_enabled() else kernels.swiglu(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


CARD_LOGITS = 2**28
"""Logits that a card holds at a time: 1 GiB in fp32, and their softmax as much again."""


def vocabulary(hidden: Tensor, tokens: int) -> Vocabulary:
    """What does the sums over a vocabulary of so many tokens for such states [M, D]."""
    if kernels.usable(hidden, hidden.shape[1]):
        return kernels.FusedVocabulary()
    if not hidden.is_cuda:
        return Vocabulary()
    chunk = max(CARD_LOGITS // tokens, 1)
    return NarrowVocabulary(chunk) if hidden.element_size() == 2 else Vocabulary(chunk)


def attend(mixed: Tensor, angles: Angles, rows: Rows, heads: Heads, window: int | None = None) -> Tensor:
    """Causal attention [N, H · C] of mixed rows [N, heads.mixed]; `rows` says which tokens see which, `window` how many
    at most.
    """
    window = None if window is None or window >= rows.longest else window
    if window is None and kernels.usable(mixed, heads.width // 2):
        return kernels.Attention.apply(mixed.contiguous(), *angles, rows.forest, heads)
    query, key, value = split_heads(mixed, angles, heads)
    if packed_attention.usable(mixed):
        return packed_attention.attend(query, key, value, rows, window).flatten(1)
    mask = rows.mask if window is None else rows.windowed(window)
    attended = F.scaled_dot_product_attention(
        rows.pad_queries(query),
        rows.pad_keys(key),
        rows.pad_keys(value),
        attn_mask=mask,
        is_causal=mask is None,
        enable_gqa=heads.query != heads.key,
    )
    return rows.pack(attended)


def attend_cached(
    mixed: Tensor, angles: Angles, cache: KVCache, layer: int, heads: Heads, window: int | None = None
) -> Tensor:
    """Attention [B, H · C] of one more token per row to itself and all before it (the last `window`, if there is one);
    appends it to the cache.
    """
    window = None if window is None or window >= cache.longest else window
    if window is None and kernels.usable(mixed, heads.width // 2):
        return kernels.cached_attention(
            mixed.contiguous(), *angles, cache.keys[layer], cache.values[layer], cache.lengths, heads
        )
    query, key, value = split_heads(mixed, angles, heads)
    keys, values = cache.append(layer, key, value)
    # The queries that share a key head stand as rows of one small attention: nothing is repeated.
    grouped = query.view(len(query), heads.key, -1, heads.width)
    attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=cache.readable(window))
    return attended.reshape(len(mixed), -1)


def split_heads(mixed: Tensor, angles: Angles, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries [N, H, C], rotated keys [N, K, C] and values [N, K, C]."""
    query = mixed.view(len(mixed), -1, heads.width)[:, : heads.query]
    return rotate(query, angles), *keys_and_values(mixed, angles, heads)


def keys_and_values(mixed: Tensor, angles: Angles, heads: Heads) -> tuple[Tensor, Tensor]:
    """Rotated keys [N, K, C] and values [N, K, C]."""
    key, value = mixed.view(len(mixed), -1, heads.width)[:, heads.query :].chunk(2, dim=1)
    return rotate(key, angles), value


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotary embedding of [N, H, C], half-split form (arXiv:2104.09864)."""
    cos, sin = (angle[:, None].to(x.dtype) for angle in angles)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
