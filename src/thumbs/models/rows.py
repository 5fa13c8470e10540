"""Packed tokens as attention wants them: as a forest of segments for the kernels, as padded rectangles for torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Forest:
    """Segment s holds the packed tokens start[s] … start[s + 1] - 1 and sees the tokens keys[first[s]] …
    keys[first[s + 1] - 1], its own ones last. Tree t is the segments trees[t] … trees[t + 1] - 1.
    """

    start: Tensor  # [S + 1]
    first: Tensor  # [S + 1]
    keys: Tensor
    trees: Tensor  # [number of trees + 1]


@dataclass(frozen=True)
class Rows:
    """N packed tokens in segments; segment i continues segment parents[i], or starts a sequence (-1)."""

    lengths: list[int]
    parents: list[int]
    seen: list[Tensor]  # of each segment: the packed tokens before it in its sequence, then its own
    device: torch.device

    @staticmethod
    def of(lengths: list[int], device: torch.device, parents: list[int] | None = None) -> Rows:
        """Segment i continues segment parents[i] < i; the segments of a tree stand together; no parents: all start."""
        parents = parents or [-1] * len(lengths)
        seen: list[Tensor] = []
        for segment, parent in zip(torch.arange(sum(lengths)).split(lengths), parents, strict=True):
            seen.append(segment if parent < 0 else torch.cat([seen[parent], segment]))
        return Rows(lengths, parents, seen, device)

    @property
    def count(self) -> int:
        """N."""
        return sum(self.lengths)

    def filled(self) -> Rows:
        """With a segment at the end that no other sees, so that few different N occur: 16 in each doubling.

        For each shape of a product oneDNN keeps code of its own, half a megabyte of it, for a thousand shapes; and
        tensors of ever new sizes leave holes in the heap that fit no other (docs/log.md).
        """
        step = max(2 ** (self.count - 1).bit_length() // 32, 16)
        missing = -self.count % step
        return Rows.of([*self.lengths, missing], self.device, [*self.parents, -1]) if missing else self

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token in its sequence, [N]."""
        own = zip(self.seen, self.lengths, strict=True)
        return torch.cat([torch.arange(len(seen) - length, len(seen)) for seen, length in own]).to(self.device)

    @cached_property
    def forest(self) -> Forest:
        """The same for the kernels."""
        roots = [segment for segment, parent in enumerate(self.parents) if parent < 0]
        return Forest(
            start=torch.tensor([0, *self.lengths]).cumsum(0),
            first=torch.tensor([0, *map(len, self.seen)]).cumsum(0),
            keys=torch.cat(self.seen),
            trees=torch.tensor([*roots, len(self.lengths)]),
        )

    @cached_property
    def segment(self) -> Tensor:
        """Which segment each token is in, [N]."""
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths)).to(self.device)

    @cached_property
    def continues(self) -> Tensor:
        """Whether segment i is segment j or continues it, [S, S]."""
        found = torch.eye(len(self.parents), dtype=torch.bool)
        for segment, parent in enumerate(self.parents):
            if parent >= 0:
                found[segment] |= found[parent]
        return found

    @cached_property
    def block_masks(self) -> dict[int | None, Any]:
        """What `packed_attention` made of these rows, by window."""
        return {}

    @cached_property
    def queries(self) -> Tensor:
        """Packed index of each query in right-padded rows, one a segment, [B, L]; 0 (any token) in the padding."""
        own = torch.arange(self.count).split(self.lengths)
        return pad_sequence(list(own), batch_first=True).to(self.device)

    @cached_property
    def keys(self) -> Tensor:
        """The same of the keys that a row's queries see, [B, C]."""
        return pad_sequence(self.seen, batch_first=True).to(self.device)

    @cached_property
    def mask(self) -> Tensor | None:
        """Which keys a query sees, [B, 1, L, C]; None: those up to itself, in a row of its own."""
        return None if self.plain else self.windowed(self.longest)

    @property
    def plain(self) -> bool:
        """Whether no segment continues another."""
        return all(parent < 0 for parent in self.parents)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.seen))

    def windowed(self, window: int) -> Tensor:
        """Which keys a query sees that sees the last so many tokens, itself included, [B, 1, L, C]."""
        before = torch.tensor([len(seen) - length for seen, length in zip(self.seen, self.lengths, strict=True)])
        places = (before[:, None] + torch.arange(self.queries.shape[1]))[..., None]
        keys = torch.arange(self.keys.shape[1])
        # What pads a query row lies behind the keys; it sees the first one, as a row without any gives NaN.
        seen = (keys <= places) & ((keys > places - window) | (places >= self.keys.shape[1]) & (keys == 0))
        return seen[:, None].to(self.device)

    @cached_property
    def to_packed(self) -> Tensor:
        """Slot of each token in the flattened queries, [N]."""
        inside = torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None]
        return inside.flatten().nonzero().squeeze(1).to(self.device)

    @cached_property
    def rectangular(self) -> bool:
        """Whether the queries need no padding."""
        return len(set(self.lengths)) == 1

    def pad_queries(self, x: Tensor) -> Tensor:
        """[N, H, W] → [B, H, L, W]."""
        return self._pad(x, self.queries, self.rectangular)

    def pad_keys(self, x: Tensor) -> Tensor:
        """[N, K, W] → [B, K, C, W]."""
        return self._pad(x, self.keys, self.rectangular and self.mask is None)

    def _pad(self, x: Tensor, index: Tensor, rectangular: bool) -> Tensor:
        # index_select: the backward pass of x[index] is four times slower on a CPU.
        flat = x if rectangular else x.index_select(0, index.flatten())
        return flat.view(*index.shape, *x.shape[1:]).transpose(1, 2)

    def pack(self, x: Tensor) -> Tensor:
        """[B, H, L, W] → [N, H·W]."""
        flat = x.transpose(1, 2).flatten(2).flatten(0, 1)
        return flat if self.rectangular else flat.index_select(0, self.to_packed)
