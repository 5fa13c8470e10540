"""From ragged datums to packed batches: the only place that lays sequences end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thumbs.errors import DataError
from thumbs.types import Datum

TOKEN_BUDGET = 2048
"""Tokens of one micro-batch; activations take about 1 MB a token in a 135M model."""


@dataclass(frozen=True)
class Batch:
    """Sequences laid end to end: tokens, targets [N]; per-target columns [N]; per-sequence columns [B]."""

    order: list[int]  # which datum each sequence is
    lengths: list[int]
    tokens: Tensor
    targets: Tensor
    columns: dict[str, Tensor]
    sequence_columns: dict[str, Tensor]

    def split(self, x: Tensor) -> list[Tensor]:
        """[N] → one piece a sequence."""
        return list(x.split(self.lengths))

    def distinct(self) -> tuple[Tensor, list[int], Tensor | None]:
        """Tokens and lengths with equal sequences once, and for each of the N tokens its index among those.

        The index is None where no sequence stands twice. Pairs of replies to one prompt share replies: K replies in
        all their pairs cost K sequences, not K(K - 1) (Ouyang et al. 2022, arXiv:2203.02155, section 3.5).
        """
        pieces = self.split(self.tokens)
        first: dict[bytes, int] = {}
        place = [first.setdefault(piece.cpu().numpy().tobytes(), len(first)) for piece in pieces]
        if len(first) == len(pieces):
            return self.tokens, self.lengths, None
        kept = [pieces[place.index(number)] for number in range(len(first))]
        ranges = torch.arange(sum(map(len, kept)), device=self.tokens.device).split([len(piece) for piece in kept])
        return torch.cat(kept), [len(piece) for piece in kept], torch.cat([ranges[number] for number in place])

    @property
    def last(self) -> Tensor:
        """Packed index of each sequence's last input [B]."""
        return torch.tensor(self.lengths, device=self.tokens.device).cumsum(0) - 1


def micro_batches(data: Sequence[Datum], device: torch.device, budget: int = TOKEN_BUDGET) -> list[Batch]:
    """Batches of at most `budget` distinct tokens (at least one unit each), similar lengths together.

    Sequences that share a value in the column `pair` are one unit and never part; equal sequences count once. Losses
    are sums over weighted targets, so the cut changes no gradient.
    """
    if not data:
        raise DataError("got no data; a batch needs at least one sequence")
    units: dict[object, list[int]] = {}
    for index, datum in enumerate(data):
        if len(datum.inputs) == 0 or len(datum.inputs) != len(datum.targets):
            raise DataError(f"datum {index}: {len(datum.inputs)} inputs and {len(datum.targets)} targets")
        if datum.columns.keys() != data[0].columns.keys():
            raise DataError(f"datum {index}: columns {sorted(datum.columns)}; datum 0 has {sorted(data[0].columns)}")
        pair = datum.columns.get("pair")
        units.setdefault(("pair", int(pair)) if pair is not None else index, []).append(index)
    ordered = sorted(units.values(), key=lambda unit: -max(len(data[i]) for i in unit))
    groups: list[list[int]] = []
    held: dict[bytes, int] = {}  # length of each distinct sequence of the newest group
    for unit in ordered:
        own = {data[i].inputs.tobytes(): len(data[i]) for i in unit}
        if not groups or sum((held | own).values()) > budget:
            groups.append([])
            held = {}
        groups[-1].extend(unit)
        held |= own
    return [_pack(data, group, device) for group in groups]


def _pack(data: Sequence[Datum], order: list[int], device: torch.device) -> Batch:
    chosen = [data[i] for i in order]
    columns: dict[str, Tensor] = {}
    sequence_columns: dict[str, Tensor] = {}
    for name in chosen[0].columns:
        values = [np.asarray(datum.columns[name], dtype=np.float32) for datum in chosen]
        if values[0].ndim == 0:
            sequence_columns[name] = torch.from_numpy(np.stack(values)).to(device)
            continue
        for index, datum, value in zip(order, chosen, values, strict=True):
            if value.shape != datum.targets.shape:
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
