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
        # A reply is scored as a whole and trained without its last token: the same states but one.
        self._whole: dict[bytes, bytes] = {}
        self._tokens = 0

    @torch.no_grad()
    def of(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """States [N, D] of sequences laid end to end."""
        return torch.cat([self._one(sequence) for sequence in tokens.split(lengths)])

    def _one(self, tokens: Tensor) -> Tensor:
        key, size = tokens.cpu().numpy().tobytes(), tokens.element_size()
        whole = self._whole.get(key, key)
        if whole in self._known:
            self._known.move_to_end(whole)
            return self._known[whole][: len(tokens)]
        rows = Rows.of([len(tokens)], tokens.device)
        states = self.trunk.run_layers(self.trunk.embed(tokens), rows, 0, self.layer)
        self._known[key] = states
        self._whole[key[:-size]] = key
        self._tokens += len(tokens)
        while self._tokens > CAPACITY and len(self._known) > 1:
            oldest, freed = self._known.popitem(last=False)
            self._tokens -= len(freed)
            if self._whole.get(oldest[:-size]) == oldest:
                del self._whole[oldest[:-size]]
        return states
