"""From ragged datums to packed batches: the only place that lays sequences end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thumbs.engine.plan import TOKEN_BUDGET, of_sequence, plan_batches
from thumbs.models.prefixes import WORTH, PrefixTree, prefix_tree
from thumbs.records import Example


@dataclass(frozen=True)
class Batch:
    """Sequences laid end to end: tokens [N]; targets and their columns [N] or [N, K]; per-sequence columns [B].

    The column of another model's states is [N, D], that of the head's weights [B, H]. The tokens stay on the host,
    where their tree is made: a GPU that was asked for them would have to finish all that waits before.
    """

    order: list[int]  # which datum each sequence is
    lengths: list[int]
    tokens: Tensor
    targets: Tensor
    columns: dict[str, Tensor]
    sequence_columns: dict[str, Tensor]

    def split(self, x: Tensor) -> list[Tensor]:
        """[N] → one piece per sequence."""
        return list(x.split(self.lengths))

    def tree(self, worth: int) -> PrefixTree:
        """Its tokens with equal beginnings once, where that saves `worth` tokens; equal sequences always.

        K replies in all their pairs cost K replies and one prompt, not K(K - 1) sequences (Ouyang et al. 2022,
        arXiv:2203.02155, section 3.5, shares the replies).
        """
        return prefix_tree([piece.numpy() for piece in self.split(self.tokens.cpu())], worth=worth)

    @property
    def sequence(self) -> Tensor:
        """Which sequence each target belongs to [N]."""
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths)).to(self.targets.device)

    @property
    def last(self) -> Tensor:
        """Packed index of each sequence's last input [B]."""
        return torch.tensor(self.lengths, device=self.targets.device).cumsum(0) - 1


def micro_batches(
    data: Sequence[Example], device: torch.device, budget: int = TOKEN_BUDGET, worth: int = WORTH
) -> list[Batch]:
    """All that `plan_batches` plans, packed."""
    return [pack(data, group, device) for group in plan_batches(data, budget, worth)]


def pack(data: Sequence[Example] | Mapping[int, Example], order: list[int], device: torch.device) -> Batch:
    """The datums `order` of checked data, laid end to end."""
    chosen = [data[i] for i in order]
    columns: dict[str, Tensor] = {}
    sequence_columns: dict[str, Tensor] = {}
    for name in chosen[0].columns:
        values = [np.asarray(datum.columns[name], dtype=np.float32) for datum in chosen]
        if of_sequence(name, values[0].shape):
            sequence_columns[name] = torch.from_numpy(np.stack(values)).to(device)
        else:
            columns[name] = torch.from_numpy(np.concatenate(values)).to(device)
    return Batch(
        order=order,
        lengths=[len(datum) for datum in chosen],
        tokens=torch.from_numpy(np.concatenate([datum.inputs for datum in chosen])),
        targets=torch.from_numpy(np.concatenate([datum.targets for datum in chosen])).to(device),
        columns=columns,
        sequence_columns=sequence_columns,
    )
