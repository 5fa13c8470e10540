"""The masks that graphics cards attend by, against torch's dense attention sequence by sequence."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from thumbs.models import packed_attention
from thumbs.models.rows import Rows

HEADS, KEY_HEADS, WIDTH = 4, 2, 16


def dense(query, key, value, rows: Rows, window: int | None) -> torch.Tensor:
    """Each segment alone: its queries against the keys of all that it continues, in float64."""
    pieces = []
    for seen, length in zip(rows.seen, rows.lengths, strict=True):
        own, before = seen[len(seen) - length :], len(seen) - length
        q = query[own].transpose(0, 1)[None]
        k, v = (x[seen].repeat_interleave(HEADS // KEY_HEADS, 1).transpose(0, 1)[None] for x in (key, value))
        at = torch.arange(before, len(seen))[:, None]
        keys = torch.arange(len(seen))[None]
        mask = (keys <= at) & (keys > at - (window or len(seen) + 1))
        pieces.append(F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize(
    ("lengths", "parents"),
    [([5, 3, 4, 1], [-1, 0, 0, 2]), ([3, 2, 2, 6], [-1, 0, -1, 2]), ([130, 7, 9], [-1, 0, 0])],
)
def test_a_query_sees_its_own_segment_and_those_it_continues(lengths, parents, window):
    torch.manual_seed(0)
    rows = Rows.of(lengths, torch.device("cpu"), parents)
    inputs = [torch.randn(rows.count, n, WIDTH, dtype=torch.float64) for n in (HEADS, KEY_HEADS, KEY_HEADS)]
    # torch has no backward pass of flex_attention on a processor; tests/gpu compares the gradients.
    torch.testing.assert_close(packed_attention.attend(*inputs, rows, window), dense(*inputs, rows, window))


def test_a_mask_is_made_once_for_all_layers():
    rows = Rows.of([4, 2], torch.device("cpu"), [-1, 0])
    assert packed_attention.block_mask(rows, 2) is packed_attention.block_mask(rows, 2)
    assert packed_attention.block_mask(rows, None) is not packed_attention.block_mask(rows, 2)


def test_a_processor_and_float32_keep_the_dense_attention():
    assert not packed_attention.usable(torch.zeros(2, dtype=torch.bfloat16))
