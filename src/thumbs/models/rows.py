"""Packed tokens as the rectangles that attention works on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Rows:
    """Where N packed tokens lie in right-padded rows: one row a segment, with its own queries and all keys it sees."""

    positions: Tensor  # [N] position of each token in its sequence
    queries: Tensor  # [B, L] packed index of each query; 0 (any token) in the padding
    keys: Tensor  # [B, C] the same of the keys: what the segment continues, then its own
    to_packed: Tensor  # [N] slot of each token in the flattened queries
    mask: Tensor | None  # [B, 1, L, C] which keys a query sees; None: those up to itself, in a row of its own
    rectangular: bool

    @staticmethod
    def of(lengths: list[int], device: torch.device, parents: list[int] | None = None) -> Rows:
        """Segment i continues segment parents[i] < i; -1, or no parents: it starts a sequence."""
        own = torch.arange(sum(lengths)).split(lengths)
        seen: list[Tensor] = []
        for segment, parent in zip(own, parents or [-1] * len(lengths), strict=True):
            seen.append(segment if parent < 0 else torch.cat([seen[parent], segment]))
        queries, keys = pad_sequence(list(own), batch_first=True), pad_sequence(seen, batch_first=True)
        sizes = torch.tensor(lengths)
        slots = torch.arange(queries.shape[1])
        inside = slots < sizes[:, None]
        positions = (torch.tensor([len(s) for s in seen]) - sizes)[:, None] + slots
        to_packed = inside.flatten().nonzero().squeeze(1)
        mask = None
        if any(parent >= 0 for parent in parents or ()):
            mask = (torch.arange(keys.shape[1]) <= positions[..., None])[:, None].to(device)
        return Rows(
            positions=positions[inside].to(device),
            queries=queries.to(device),
            keys=keys.to(device),
            to_packed=to_packed.to(device),
            mask=mask,
            rectangular=bool(inside.all()),
        )

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
