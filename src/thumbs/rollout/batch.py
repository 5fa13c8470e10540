"""The rows that decode together, with their cache: how they enter, take the places of others, and leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thumbs.rollout.scheduler import DecodingRow

ROOM = 128
"""Tokens by which a cache grows."""

FULL = 0.75
"""Share of a batch below which rows that are done are dropped: that copies the cache, which costs about a step."""


@dataclass
class Prefilled:
    """Rows whose prompts have been read: their cache and their last hidden states [B, D]."""

    rows: list[DecodingRow]
    cache: Any
    hidden: Tensor


class DecodingBatch:
    """Rows with their cache and last hidden states [B, D]. A row that is done keeps its place until it is needed."""

    def __init__(self, context: int) -> None:
        self.context = context
        self.rows: list[DecodingRow] = []
        self.cache: Any = None
        self.hidden = torch.empty(0)
        self._entering: list[Prefilled] = []

    @property
    def live(self) -> list[DecodingRow]:
        """Rows that are not done, those that enter among them."""
        entering = (row for part in self._entering for row in part.rows)
        return [row for row in (*self.rows, *entering) if not row.done]

    def end_cancelled(self) -> None:
        """Rows whose request was cancelled are done; only here, since requests are cancelled at any moment."""
        for row in self.live:
            row.done = row.job.future.cancelled()

    def enter(self, parts: list[Prefilled]) -> None:
        """Adds rows, which are in the batch when they have settled."""
        self._entering += parts

    def shrink(self) -> None:
        """Drops rows that are done, or keeps them as places for those that enter, before the others decode."""
        done = [place for place, row in enumerate(self.rows) if row.done]
        if len(done) == len(self.rows):
            self.rows, self.cache = [], None
            return
        entering = sum(len(part.rows) for part in self._entering)
        # A row that is done decodes on unheard, and could leave the model's last position behind.
        outgrown = int(self.cache.lengths.max()) >= self.context
        spare = 0 if outgrown or entering > len(done) else entering
        if outgrown or len(self.rows) - len(done) + spare <= FULL * len(self.rows) or entering > len(done) > 0:
            dropped = set(done[spare:])
            self._keep([place for place in range(len(self.rows)) if place not in dropped])

    def settle(self) -> None:
        """Rows that enter take the places of those that are done, or stand below the others."""
        parts, self._entering = self._entering, []
        if not parts:
            return
        new, hidden = [row for part in parts for row in part.rows], torch.cat([part.hidden for part in parts])
        caches = [part.cache for part in parts]
        longest = max(int(cache.lengths.max()) for cache in caches)
        done = [place for place, row in enumerate(self.rows) if row.done]
        if self.cache is not None and len(done) >= len(new) and longest <= self.cache.room:  # no copy of all rows
            places = torch.tensor(done[: len(new)], device=hidden.device)
            self.cache.put(places, caches)
            self.hidden = self.hidden.index_copy(0, places, hidden)
            for place, row in zip(done, new, strict=False):
                self.rows[place] = row
            return
        if self.cache is not None:
            caches, hidden = [self.cache, *caches], torch.cat([self.hidden, hidden])
        if len(caches) > 1:
            longest = max(int(cache.lengths.max()) for cache in caches)
            caches = [caches[0].joined(caches[1:], longest + ROOM)]  # with room: a later `grow` copies it all again
        self.cache, self.hidden, self.rows = caches[0], hidden, [*self.rows, *new]

    def grow(self) -> None:
        """Makes sure that every row can hold one token more."""
        if int(self.cache.lengths.max()) == self.cache.room:
            self.cache = self.cache.joined([], self.cache.room + ROOM)

    def _keep(self, places: list[int]) -> None:
        at = torch.tensor(places, device=self.hidden.device)
        self.cache.select(at)
        self.hidden, self.rows = self.hidden[at], [self.rows[place] for place in places]
