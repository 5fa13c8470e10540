"""The scalar head: one number at every position, used as a value or, at the last token, as a score."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """hidden [N, D] → values [N], in float32.

    Starts at zero, so that a fresh critic predicts 0 and a fresh reward model prefers nothing; the gradient of a linear
    head does not vanish there. (lm-human-preferences starts the value head so, and the reward head at 1/sqrt(D + 1).)
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden.float() @ self.weight + self.bias
