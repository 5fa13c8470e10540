"""From ragged datums to packed batches: the only place that lays sequences end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thumbs.config.losses import HEAD_WEIGHTS, REFERENCE_STATES
from thumbs.errors import DataError
from thumbs.models.prefixes import WORTH, PrefixTree, lexicographic, prefix_tree, shared_length
from thumbs.records import Datum

TOKEN_BUDGET = 2048
"""Tokens of one micro-batch; activations take about 1 MB a token in a 135M model."""


@dataclass(frozen=True)
class Batch:
    """Sequences laid end to end: tokens [N]; targets and their columns [N] or [N, K]; per-sequence columns [B].

    The column of another model's states is [N, D], that of the head's weights [B, H].
    """

    order: list[int]  # which datum each sequence is
    lengths: list[int]
    tokens: Tensor
    targets: Tensor
    columns: dict[str, Tensor]
    sequence_columns: dict[str, Tensor]

    def split(self, x: Tensor) -> list[Tensor]:
        """[N] → one piece a sequence."""
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
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths)).to(self.tokens.device)

    @property
    def last(self) -> Tensor:
        """Packed index of each sequence's last input [B]."""
        return torch.tensor(self.lengths, device=self.tokens.device).cumsum(0) - 1


def micro_batches(
    data: Sequence[Datum], device: torch.device, budget: int = TOKEN_BUDGET, worth: int = WORTH
) -> list[Batch]:
    """Batches of at most `budget` distinct tokens (at least one unit each), families together, then similar lengths.

    Sequences that share a value in the column `unit` are one unit and never part; a family is units that have most of
    a sequence in common, as replies to one prompt do. Losses are sums over weighted targets, so the cut changes no
    gradient.
    """
    if not data:
        raise DataError("got no data; a batch needs at least one sequence")
    units: dict[object, list[int]] = {}
    for index, datum in enumerate(data):
        if len(datum.inputs) == 0 or len(datum.inputs) != len(datum.targets):
            raise DataError(f"datum {index}: {len(datum.inputs)} inputs and {len(datum.targets)} targets")
        if datum.columns.keys() != data[0].columns.keys():
            raise DataError(f"datum {index}: columns {sorted(datum.columns)}; datum 0 has {sorted(data[0].columns)}")
        unit = datum.columns.get("unit")
        units.setdefault(("unit", int(unit)) if unit is not None else index, []).append(index)
    groups: list[list[int]] = []
    held: dict[bytes, np.ndarray] = {}  # the distinct sequences of the newest group
    tokens = 0
    for unit in _families(data, list(units.values())):
        own = {data[i].inputs.tobytes(): data[i].inputs for i in unit}
        added = _added_tokens(held, own, worth)
        if not groups or tokens + added > budget:
            groups.append([])
            held, tokens, added = {}, 0, _added_tokens({}, own, worth)
        groups[-1].extend(unit)
        held |= own
        tokens += added
    return [_pack(data, group, device) for group in groups]


def _families(data: Sequence[Datum], units: list[list[int]]) -> list[list[int]]:
    """The units, those that begin alike as neighbours, long families first."""
    heads = [data[unit[0]].inputs for unit in units]
    families: list[list[int]] = []
    for place in lexicographic(heads):
        head = heads[place]
        if not families or 2 * shared_length(heads[families[-1][-1]], head) < len(head):
            families.append([])
        families[-1].append(place)
    families.sort(key=lambda family: -max(len(data[i]) for place in family for i in units[place]))
    return [units[place] for family in families for place in family]


def _added_tokens(held: dict[bytes, np.ndarray], own: dict[bytes, np.ndarray], worth: int) -> int:
    """Distinct tokens that `own` adds to `held`; of shared beginnings only those of neighbours are seen."""
    before = next(reversed(held.values()), np.empty(0, dtype=np.int64))
    added = 0
    for key, inputs in own.items():
        if key not in held:
            shared = shared_length(before, inputs)
            added += len(inputs) - (shared if shared >= worth else 0)
        before = inputs
    return added


def _pack(data: Sequence[Datum], order: list[int], device: torch.device) -> Batch:
    chosen = [data[i] for i in order]
    columns: dict[str, Tensor] = {}
    sequence_columns: dict[str, Tensor] = {}
    for name in chosen[0].columns:
        values = [np.asarray(datum.columns[name], dtype=np.float32) for datum in chosen]
        if values[0].ndim == 0 or name == HEAD_WEIGHTS:
            sequence_columns[name] = torch.from_numpy(np.stack(values)).to(device)
            continue
        for index, datum, value in zip(order, chosen, values, strict=True):
            shape = value.shape[:-1] if name == REFERENCE_STATES else value.shape
            if shape != datum.targets.shape:
                raise DataError(
                    f"datum {index}: column {name!r} has shape {value.shape}, its targets {datum.targets.shape}"
                )
        columns[name] = torch.from_numpy(np.concatenate(values)).to(device)
    return Batch(
        order=order,
        lengths=[len(datum) for datum in chosen],
        tokens=torch.from_numpy(np.concatenate([datum.inputs for datum in chosen])).to(device),
        targets=torch.from_numpy(np.concatenate([datum.targets for datum in chosen])).to(device),
        columns=columns,
        sequence_columns=sequence_columns,
    )
