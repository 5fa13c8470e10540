"""What all models of a run have in common: the states below the lowest adapted layer, computed once a sequence."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from thumbs.models.causal_lm import CausalLM
from thumbs.models.rows import Rows

CAPACITY = 200_000
"""Tokens kept; a token takes 2.3 kB in a 135M model in float32."""


class SharedStates:
    """States that enter layer `layer` of a frozen trunk, by token sequence; the least recently used leave first.

    Each sequence is computed alone, so its numbers do not depend on what else was in a batch or on what was asked
    before: a resumed run finds the same bits. (At 50 tokens and more a sequence fills the matrix products by itself.)
    """

    def __init__(self, trunk: CausalLM, layer: int) -> None:
        self.trunk, self.layer = trunk, layer
        self._known: OrderedDict[bytes, Tensor] = OrderedDict()
        self._tokens = 0

    @torch.no_grad()
    def of(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """States [N, D] of sequences laid end to end."""
        return torch.cat([self._one(sequence) for sequence in tokens.split(lengths)])

    def _one(self, tokens: Tensor) -> Tensor:
        key = tokens.cpu().numpy().tobytes()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        rows = Rows.of([len(tokens)], tokens.device)
        states = self.trunk.run_layers(self.trunk.embed(tokens), rows, 0, self.layer)
        self._known[key] = states
        self._tokens += len(tokens)
        while self._tokens > CAPACITY and len(self._known) > 1:
            self._tokens -= len(self._known.popitem(last=False)[1])
        return states
