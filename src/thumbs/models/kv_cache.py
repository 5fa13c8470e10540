"""Keys and values of everything generated so far, one preallocated block per layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class KVCache:
    """Rows of right-padded keys and values [B, K, L, C]; row b holds `lengths[b]` tokens."""

    def __init__(
        self,
        layers: int,
        rows: int,
        heads: int,
        length: int,
        width: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, rows, heads, length, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = torch.zeros(rows, dtype=torch.long, device=device)
        self.plan: object = None  # what `CausalLM.decode` makes for these tensors
        self._rows = torch.arange(rows, device=device)
        self.longest = 0

    def fill(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Writes the keys and values [B, K, L, C] of whole prompts; padding beyond a row's length stays unread."""
        self.keys[layer][:, :, : key.shape[2]] = key
        self.values[layer][:, :, : value.shape[2]] = value

    def start(self, lengths: Tensor) -> None:
        """Declares how many tokens each row holds after `fill`."""
        self.lengths = lengths.clone()
        self.longest = int(lengths.max())

    def step(self) -> None:
        """Makes room for one more token per row."""
        self.lengths = self.lengths + 1
        self.longest += 1

    def readable(self, window: int | None = None) -> Tensor:
        """Which of the slots that `append` returns hold a row's (last so many) tokens, bool [B, 1, 1, L]."""
        slots = torch.arange(self.longest, device=self.lengths.device)
        held = slots[None] < self.lengths[:, None]
        held &= slots[None] >= self.lengths[:, None] - (window or self.longest)
        return held[:, None, None]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Writes the newest token's key and value [B, K, C]; returns all keys and values so far [B, K, L, C]."""
        at = self.lengths - 1
        self.keys[layer][self._rows, :, at] = key
        self.values[layer][self._rows, :, at] = value
        return self.keys[layer][:, :, : self.longest], self.values[layer][:, :, : self.longest]

    @property
    def room(self) -> int:
        """Tokens that a row can hold."""
        return self.keys.shape[3]

    def joined(self, others: Sequence[KVCache], room: int) -> KVCache:
        """A cache with the rows of this one and then the others', each with room for so many tokens."""
        caches = [self, *others]
        layers, _, heads, _, width = self.keys.shape
        rows = sum(len(cache.lengths) for cache in caches)
        whole = KVCache(layers, rows, heads, room, width, self.keys.dtype, self.keys.device)
        begin = 0
        for cache in caches:
            end, longest = begin + len(cache.lengths), cache.longest
            for ours, theirs in ((whole.keys, cache.keys), (whole.values, cache.values)):
                ours[:, begin:end, :, :longest] = theirs[:, :, :, :longest]
            begin = end
        whole.start(torch.cat([cache.lengths for cache in caches]))
        return whole

    def put(self, places: Tensor, caches: Sequence[KVCache]) -> None:
        """Overwrites the rows at `places` by those of `caches`, in order."""
        begin = 0
        for cache in caches:
            own, longest = places[begin : begin + len(cache.lengths)], cache.longest
            self.keys[:, own, :, :longest] = cache.keys[:, :, :, :longest]
            self.values[:, own, :, :longest] = cache.values[:, :, :, :longest]
            self.lengths[own] = cache.lengths
            begin += len(own)
        self.longest = int(self.lengths.max())

    def select(self, rows: Tensor) -> None:
        """Keeps (or repeats) the given rows, in that order."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.lengths, self.plan = self.lengths[rows], None
        self._rows = torch.arange(len(rows), device=rows.device)
        self.longest = int(self.lengths.max()) if len(rows) else 0
