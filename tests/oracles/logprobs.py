"""Logprobs and entropy with the whole [M, V] tensor in memory, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax at the targets and the entropy, nats."""
    table = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
    return table[torch.arange(len(targets)), targets], -(table.exp() * table).sum(-1)
