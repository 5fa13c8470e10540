"""Sums of gradients that come out the same in whatever order, and by however many ranks, their terms are added."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

CHUNK = 2**20
"""Numbers that the ranks exchange at a time."""

Pair = tuple[Tensor, Tensor]
"""A sum as two float64 tensors: the sum, rounded, and what the rounding lost."""


class ExactSums:
    """One sum per parameter, held to some 106 bits (Dekker 1971) and rounded once, to float32.

    Plain float64 would round differently for another order of the terms wherever they differ by more than 2²⁹; here
    they must differ by more than 2⁸⁰. A parameter without any term stays without a sum.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Pair] = {}

    def take(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Adds the gradients of the parameters, and clears them."""
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                grad = parameter.grad.double()
                self._add(name, (grad, torch.zeros_like(grad)))
                parameter.grad = None

    def merge(self, others: ExactSums) -> None:
        """Adds other sums."""
        for name, pair in others._sums.items():
            self._add(name, pair)

    def totals(self, parameters: Mapping[str, nn.Parameter], world: int) -> dict[str, Tensor]:
        """Each parameter's sum over all ranks, float32; None of its ranks has one: it is left out. A collective."""
        names = [name for name, some in zip(parameters, self._anywhere(parameters, world), strict=True) if some]
        if not names:
            return {}
        nothing = {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in names}
        pairs = [self._sums.get(name, (nothing[name], nothing[name])) for name in names]
        flat = torch.stack([torch.cat([pair[part].flatten() for pair in pairs]) for part in range(2)])
        if world > 1:
            flat = torch.cat([_of_all_ranks(chunk, world) for chunk in flat.split(CHUNK, dim=1)], dim=1)
        pieces = (flat[0] + flat[1]).float().split([parameters[name].numel() for name in names])
        return {name: piece.view_as(parameters[name]) for name, piece in zip(names, pieces, strict=True)}

    def _add(self, name: str, term: Pair) -> None:
        self._sums[name] = add_pairs(self._sums[name], term) if name in self._sums else term

    def _anywhere(self, parameters: Mapping[str, nn.Parameter], world: int) -> list[int]:
        """For each parameter whether some rank has a sum of it."""
        some = torch.tensor([name in self._sums for name in parameters], dtype=torch.int32)
        if world > 1 and len(some):
            some = some.to(next(iter(parameters.values())).device)
            dist.all_reduce(some, dist.ReduceOp.MAX)
        return some.tolist()


def add_pairs(one: Pair, other: Pair) -> Pair:
    """The sum of two pairs; its first part is rounded, and its second has what that lost (Knuth's two-sum)."""
    total = one[0] + other[0]
    back = total - one[0]
    lost = (one[0] - (total - back)) + (other[0] - back)
    return total, one[1] + other[1] + lost


def _of_all_ranks(chunk: Tensor, world: int) -> Tensor:
    """The sum over ranks of pairs [2, N]."""
    chunk = chunk.contiguous()
    of_rank = [torch.empty_like(chunk) for _ in range(world)]
    dist.all_gather(of_rank, chunk)
    total: Pair = (of_rank[0][0], of_rank[0][1])
    for high, low in of_rank[1:]:
        total = add_pairs(total, (high, low))
    return torch.stack(total)
