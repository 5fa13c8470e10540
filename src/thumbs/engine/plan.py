"""Which sequences are computed together, and what their results are together: nothing here needs a tensor's values.

Every process that plans the same data plans the same micro-batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from thumbs.config.losses import HEAD_WEIGHTS, REFERENCE_STATES
from thumbs.errors import DataError, NonFiniteError
from thumbs.models.prefixes import WORTH, lexicographic, shared_length
from thumbs.records import Example, ForwardOutput, TrainOutput

TOKEN_BUDGET = 2048
"""Tokens of one micro-batch; activations take about 1 MB per token in a 135M model."""


class Cut(NamedTuple):
    """How data is cut into micro-batches: at most `budget` distinct tokens in each, and a beginning that sequences
    share counts once if that saves `worth` tokens.
    """

    budget: int = TOKEN_BUDGET
    worth: int = WORTH


def plan_batches(data: Sequence[Example], budget: int = TOKEN_BUDGET, worth: int = WORTH) -> list[list[int]]:
    """The datums of each micro-batch: at most `budget` distinct tokens (at least one unit each), families together,
    then similar lengths.

    Sequences that share a value in the column `unit` are one unit and never part; a family is units that have most of
    a sequence in common, as replies to one prompt do. Losses are sums over weighted targets, so the cut changes no
    gradient. Raises DataError, which names the datum, before anything is computed.
    """
    check_data(data)
    units: dict[object, list[int]] = {}
    for index, datum in enumerate(data):
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
    return groups


def check_data(data: Sequence[Example]) -> None:
    """Raises DataError unless the datums have the same columns, each as long as its targets or one number."""
    if not data:
        raise DataError("got no data; a batch needs at least one sequence")
    for index, datum in enumerate(data):
        if len(datum.inputs) == 0 or len(datum.inputs) != len(datum.targets):
            raise DataError(f"datum {index}: {len(datum.inputs)} inputs and {len(datum.targets)} targets")
        if datum.columns.keys() != data[0].columns.keys():
            raise DataError(f"datum {index}: columns {sorted(datum.columns)}; datum 0 has {sorted(data[0].columns)}")
        for name, column in datum.columns.items():
            shape, first = np.shape(column), np.shape(data[0].columns[name])
            if of_sequence(name, first):
                if shape != first:
                    raise DataError(f"datum {index}: column {name!r} has shape {shape}; datum 0 has {first}")
            elif (shape[:-1] if name == REFERENCE_STATES else shape) != datum.targets.shape:
                raise DataError(f"datum {index}: column {name!r} has shape {shape}, its targets {datum.targets.shape}")


def of_sequence(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a column says something of a whole sequence and not of each target."""
    return not shape or name == HEAD_WEIGHTS


def _families(data: Sequence[Example], units: list[list[int]]) -> list[list[int]]:
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


def deal(costs: Sequence[float], ranks: int, *, in_step: bool = False) -> list[list[int]]:
    """Which micro-batches each rank computes, in the plan's order: the costliest first, each to who has least to do.

    in_step: each takes a turn of all ranks, so none gets more of them than must be.
    """
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0.0] * ranks
    most = -(-len(costs) // ranks) if in_step else len(costs)
    for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
        rank = min((r for r in range(ranks) if len(dealt[r]) < most), key=loads.__getitem__)
        dealt[rank].append(place)
        loads[rank] += costs[place]
    return [sorted(own) for own in dealt]


@dataclass(frozen=True)
class BatchResult:
    """What came of one micro-batch: outputs by datum; the summed loss; metrics and what they weigh."""

    outputs: Mapping[int, ForwardOutput]
    loss: float
    metrics: Mapping[str, float]
    weight: float


def join_results(name: str, results: Sequence[BatchResult]) -> TrainOutput:
    """The micro-batches of a plan, in its order, as one; raises NonFiniteError, which says `name`, for a loss that is
    not finite.

    Metrics are means by weight, sums of `_sum`, maxima of `_max`.
    """
    if broken := [result.loss for result in results if not math.isfinite(result.loss)]:
        raise NonFiniteError(f"{name}: the loss became {broken[0]}")
    total = sum(result.weight for result in results) or 1.0
    metrics: dict[str, float] = {}
    for key in results[0].metrics:
        values = [result.metrics[key] for result in results]
        if key.endswith("_max"):
            metrics[key] = max(values)
        elif key.endswith("_sum"):
            metrics[key] = sum(values)
        else:
            metrics[key] = sum(v * r.weight for v, r in zip(values, results, strict=True)) / total
    return TrainOutput(float(sum(result.loss for result in results)), join_outputs(results), metrics)


def join_outputs(results: Sequence[BatchResult]) -> tuple[ForwardOutput, ...]:
    """The outputs in the order of the data."""
    outputs = {index: output for result in results for index, output in result.outputs.items()}
    return tuple(outputs[index] for index in range(len(outputs)))
