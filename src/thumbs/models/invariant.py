"""States that depend on a token and what stands before it, to the last bit, whatever else is computed with them.

How a product rounds depends on its shape, so here every product has one shape: CHUNK rows, or BLOCK queries of one
sequence against the blocks up to theirs. So sequences can be computed together, share their beginnings, be remembered
and be computed again in other company, and a resumed run still finds the numbers of the uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thumbs.models.operators import Angles, Heads, split_heads
from thumbs.models.prefixes import PrefixTree, prefix_tree
from thumbs.models.rows import Rows

CHUNK = 256
"""Rows of a product: a short last chunk is filled up, and larger ones waste more on that than they gain."""

BLOCK = 64
"""Queries of an attention product; a sequence's blocks begin at its position 0, 64, 128, …"""


class Decoder(Protocol):
    """What is used of `CausalLM` here."""

    heads: Heads

    def embed(self, tokens: Tensor) -> Tensor: ...
    def rotary(self, positions: Tensor) -> Angles: ...
    def head_weight(self) -> Tensor: ...
    def forward_above(self, x: Tensor, rows: Rows, first: int, adapter: Any = None) -> Tensor: ...


class Lowest:
    """The lowest layers of a decoder, which adapters leave alone (`base.LowerLayers`)."""

    def __init__(self, trunk: Decoder, layers: Sequence[Any]) -> None:
        self.trunk, self.layers = trunk, layers

    def states(self, sequences: Sequence[np.ndarray]) -> list[Tensor]:
        """States [L, D] of each sequence above these layers."""
        return invariant_states(self.trunk, self.layers, sequences)

    def forward_above(self, states: Tensor, rows: Rows, adapter: Any) -> Tensor:
        """Final hidden states [N, D] from the states above these layers."""
        return self.trunk.forward_above(states, rows, len(self.layers), adapter)


@torch.no_grad()
def invariant_states(trunk: Decoder, layers: Sequence[Any], sequences: Sequence[np.ndarray]) -> list[Tensor]:
    """States [L, D] of each sequence after `layers`, the lowest of `trunk`, without adapters."""
    device = trunk.head_weight().device
    tree = prefix_tree(sequences)
    blocks = _Blocks(sequences, tree, device)
    tokens = torch.from_numpy(np.concatenate(sequences)[tree.source]).to(device)
    padding = -len(tokens) % CHUNK
    angles = trunk.rotary(F.pad(blocks.positions, (0, padding)))
    chunks = list(trunk.embed(F.pad(tokens, (0, padding))).split(CHUNK))
    for layer in layers:
        mixed = torch.cat([layer.mix(x, None) for x in chunks])
        attended = F.pad(blocks.attend(*split_heads(mixed, angles, trunk.heads)), (0, 0, 0, padding)).split(CHUNK)
        chunks = [layer.finish(x, seen, None) for x, seen in zip(chunks, attended, strict=True)]
    states = torch.cat(chunks)[torch.from_numpy(tree.places).to(device)]
    return list(states.split([len(sequence) for sequence in sequences]))


class _Blocks:
    """Where the distinct tokens of a tree lie in its sequences, each padded on the right to whole blocks."""

    def __init__(self, sequences: Sequence[np.ndarray], tree: PrefixTree, device: torch.device) -> None:
        lengths = np.array([len(sequence) for sequence in sequences])
        width = -(-lengths.max() // BLOCK) * BLOCK
        inside = np.arange(width) < lengths[:, None]
        packed, own = np.zeros(inside.shape, dtype=np.int64), np.zeros(inside.shape, dtype=bool)
        packed[inside] = tree.places
        slots = np.flatnonzero(inside)[tree.source]  # of each distinct token, in the sequence that computes it
        own.flat[slots] = True
        self.positions = torch.from_numpy(slots % width).to(device)
        self.packed = torch.from_numpy(packed).to(device)
        self.slots = torch.from_numpy(slots).to(device)
        self.needed = torch.from_numpy(own.reshape(len(own), -1, BLOCK).any(2)).to(device)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal attention of the distinct tokens: [M, H, C], [M, K, C], [M, K, C] → [M, H·C]."""
        heads, channels = query.shape[1:]
        out = query.new_zeros(*self.packed.shape, heads * channels)
        later = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu(1)
        for block in range(self.needed.shape[1]):
            members = self.needed[:, block].nonzero().squeeze(1)
            begin, end = block * BLOCK, (block + 1) * BLOCK
            seen = self.packed[members, :end]
            q, k, v = query[seen[:, begin:]], key[seen], value[seen]
            # The queries that share a key head stand below each other: [n, K, H/K·BLOCK, C].
            q = q.view(len(members), BLOCK, k.shape[2], -1, channels).permute(0, 2, 3, 1, 4).flatten(2, 3)
            scores = (q @ k.permute(0, 2, 3, 1)).float() * channels**-0.5
            scores.unflatten(2, (-1, BLOCK))[..., begin:].masked_fill_(later, -torch.inf)
            mixed = scores.softmax(-1).to(v.dtype) @ v.transpose(1, 2)
            out[members, begin:end] = mixed.unflatten(2, (-1, BLOCK)).permute(0, 3, 1, 2, 4).flatten(2)
        return out.flatten(0, 1)[self.slots]
