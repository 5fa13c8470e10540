"""How often a loss asks for a number of a tensor: on a GPU each such question waits for all that was queued before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thumbs.functional.policy_losses import cispo, cross_entropy, dro, gspo, importance_sampling, kl_penalty, ppo_clip
from thumbs.functional.reverse_kl import reverse_kl
from thumbs.functional.reward_losses import regression
from thumbs.functional.value_losses import value_clip

ASKING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class Questions(TorchDispatchMode):
    """Counts operators whose results, or the sizes of them, depend on the numbers of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is torch.ops.aten.index.Tensor and any(x is not None and x.dtype == torch.bool for x in args[1])
        self.asked += func in ASKING or by_mask
        return func(*args, **(kwargs or {}))


def numbers(seed: int) -> Tensor:
    return torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


WEIGHTS = torch.tensor([0.0, 0.5, 0.25, 0.0, 1.0, 0.25], dtype=torch.float64)
A, B, C = map(numbers, range(3))
SEQUENCE = torch.tensor([0, 0, 0, 1, 1, 1])
LOSSES: dict[str, tuple[int, Callable[[], Any]]] = {
    "cross_entropy": (1, lambda: cross_entropy(A, WEIGHTS)),
    "ppo_clip": (1, lambda: ppo_clip(A, B, C, WEIGHTS, A**2, entropy_coef=0.1)),
    "importance_sampling": (1, lambda: importance_sampling(A, B, C, WEIGHTS)),
    "cispo": (1, lambda: cispo(A, B, C, WEIGHTS)),
    "dro": (1, lambda: dro(A, B, C, WEIGHTS)),
    "gspo": (1, lambda: gspo(A, B, C, WEIGHTS, WEIGHTS, SEQUENCE)),
    "kl_penalty": (1, lambda: kl_penalty(A, B, WEIGHTS)),
    "value_clip": (1, lambda: value_clip(A, B, C, WEIGHTS)),
    "reverse_kl": (0, lambda: reverse_kl(A**2, WEIGHTS, 1.5)),
    "regression": (0, lambda: regression(A, B, WEIGHTS)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_asks_once_where_the_weights_are(name):
    most, loss = LOSSES[name]
    with Questions() as counted:
        loss()
    assert counted.asked == most


def test_metrics_of_nothing_are_zero():
    """Of no weight at all, by hand: nothing over nothing is 0 here, and no NaN reaches a log."""
    none = torch.zeros(6)
    x = A.float()
    assert cross_entropy(x, none)[1]["nll"] == 0.0
    assert kl_penalty(x, -x, none)[1]["kl"] == 0.0
    assert reverse_kl(x**2, none, 1.0)[1]["mean"] == 0.0
    assert regression(x, -x, none)[1]["error"] == 0.0
