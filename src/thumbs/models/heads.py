"""The scalar head: a number at every position, or several; used as a value or, at the last token, as a score."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """hidden [N, D] → values [N], in float32; with `outputs` H > 1, an ensemble on one trunk, values [N, H].

    Starts at zero, so that a fresh critic predicts 0 and a fresh reward model prefers nothing; the gradient of a linear
    head does not vanish there. (lm-human-preferences starts the value head so, and the reward head at 1/sqrt(D + 1).)
    Several numbers start random, with that deviation, from `seed`: they are to differ where no data has told them what
    to say.
    """

    def __init__(self, width: int, outputs: int = 1, seed: int = 0) -> None:
        super().__init__()
        shape = () if outputs == 1 else (outputs,)
        self.weight = nn.Parameter(torch.zeros(*shape, width))
        self.bias = nn.Parameter(torch.zeros(shape))
        if outputs > 1:
            generator = torch.Generator().manual_seed(seed)
            self.weight.data = torch.randn(self.weight.shape, generator=generator) / math.sqrt(width + 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.float() @ self.weight.t() + self.bias
