"""Attention over packed tokens on a graphics card: torch's kernels for ragged rows, which pad nothing.

Sequences in rows of their own go to `varlen_attn` (FlashAttention, arXiv:2307.08691), segments that continue others to
`flex_attention` with a mask of blocks, so that neither holds a score per pair of tokens. In float32, in which the
first does not compute and the second would round to TF32, `operators.attend` keeps torch's dense attention.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from thumbs.models.rows import Rows


def usable(x: Tensor) -> bool:
    """Whether the kernels take such a tensor: 16 bits on a card of the Ampere generation or later."""
    return (
        x.is_cuda
        and x.dtype in (torch.float16, torch.bfloat16)
        and torch.cuda.get_device_capability(x.device) >= (8, 0)
    )


def attend(query: Tensor, key: Tensor, value: Tensor, rows: Rows, window: int | None) -> Tensor:
    """Attended values [N, H, C] of queries [N, H, C], keys [N, K, C] and values [N, K, C]; see `operators.attend`."""
    grouped = query.shape[1] != key.shape[1]
    if rows.plain:
        from torch.nn.attention.varlen import varlen_attn  # it takes seconds, which only a card has a use for

        starts = rows.forest.start.to(query.device, torch.int32)
        back = -1 if window is None else window - 1
        longest = rows.longest
        given: Any = varlen_attn(
            query, key, value, starts, starts, longest, longest, window_size=(back, 0), enable_gqa=grouped
        )
        return given
    query, key, value = (x.transpose(0, 1)[None] for x in (query, key, value))
    attended: Any = _flex(query.is_cuda)(query, key, value, block_mask=block_mask(rows, window), enable_gqa=grouped)
    return attended[0].transpose(0, 1)


def block_mask(rows: Rows, window: int | None) -> BlockMask:
    """Which keys a query sees: those of its own segment and of all that it continues, up to itself, the last `window`
    at most. It is made once per rows and window.
    """
    if window not in rows.block_masks:
        segment, position = rows.segment, rows.positions
        continues = rows.continues.to(rows.device)

        def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            back = position[query] - position[key]
            near = back >= 0 if window is None else (back >= 0) & (back < window)
            return continues[segment[query], segment[key]] & near

        count = rows.count
        made = create_block_mask(sees, None, None, count, count, rows.device, _compile=rows.device.type == "cuda")
        rows.block_masks[window] = made
    return rows.block_masks[window]


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    """flex_attention computes by blocks only where it is compiled; as it stands it is for tests."""
    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention
