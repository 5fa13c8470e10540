"""What all models of a run have in common: the states below the lowest adapted layer, computed once a sequence."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from thumbs.models.base import LowerLayers

CAPACITY = 200_000
"""Tokens kept; a token takes 2.3 kB in a 135M model in float32."""


class SharedStates:
    """States above the lower layers of a frozen trunk, by token sequence; the least recently used leave first.

    A resumed run starts with nothing remembered and finds the same bits: `LowerLayers` does not mind the company.
    """

    def __init__(self, layers: LowerLayers) -> None:
        self.layers = layers
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        # A reply is scored as a whole and trained without its last token: the same states but one.
        self._whole: dict[bytes, bytes] = {}
        self._tokens = 0

    def of(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """States [N, D] of sequences laid end to end."""
        sequences = np.split(tokens.cpu().numpy(), np.cumsum(lengths)[:-1])
        keys = [sequence.tobytes() for sequence in sequences]
        found: dict[bytes, Tensor] = {}
        missing: dict[bytes, np.ndarray] = {}
        for key, sequence in zip(keys, sequences, strict=True):
            states = self._recall(key)
            if states is None:
                missing[key] = sequence
            else:
                found[key] = states
        if missing:
            computed = self.layers.states(list(missing.values()))
            for key, states in zip(missing, computed, strict=True):
                found[key] = states.clone()  # a view would keep its neighbours in memory
                self._remember(key, found[key], tokens.element_size())
        return torch.cat([found[key] for key in keys])

    def _recall(self, key: bytes) -> Tensor | None:
        whole = self._whole.get(key, key)
        if whole not in self._known:
            return None
        self._known.move_to_end(whole)
        return self._known[whole] if whole == key else self._known[whole][:-1]

    def _remember(self, key: bytes, states: Tensor, token_size: int) -> None:
        self._known[key] = states
        self._whole[key[:-token_size]] = key
        self._tokens += len(states)
        while self._tokens > CAPACITY and len(self._known) > 1:
            oldest, freed = self._known.popitem(last=False)
            self._tokens -= len(freed)
            if self._whole.get(oldest[:-token_size]) == oldest:
                del self._whole[oldest[:-token_size]]
