"""When the groups of each batch are rolled out, and with which weights."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from thumbs.errors import ConfigError, DataError
from thumbs.recipe.configs import config_class
from thumbs.recipe.rl.types import EnvGroupBuilder, RLDataset, TrajectoryGroup


@config_class
class AsyncConfig:
    """Rollouts go on while the policy trains.

    max_steps_off_policy: how many updates a group's weights may be behind when it is trained on. groups_per_batch: how
    many groups are rolled out at a time; a batch of the dataset must have that many.
    """

    max_steps_off_policy: int
    groups_per_batch: int


@config_class
class StreamMinibatchConfig:
    """Training on a batch begins when the first of its minibatches is rolled out; still with one set of weights.

    groups_per_batch: groups of a batch of the dataset. num_minibatches: into how many they are cut.
    """

    groups_per_batch: int
    num_minibatches: int


@dataclass(frozen=True)
class RolledGroup:
    """A group, None where it failed; who made it, and how many updates its weights had seen."""

    builder: EnvGroupBuilder
    group: TrajectoryGroup | None
    version: int


Roll = Callable[[EnvGroupBuilder, Any], Coroutine[Any, Any, TrajectoryGroup | None]]


class RolloutSchedule:
    """Rolls out batches in order, at most `ahead` batches before the one that is trained on.

    With `ahead` 0 that is synchronous training: the rollouts of a step begin when its weights are there. With more it
    is asynchronous, and `ahead` bounds how old weights can be: a batch is not begun earlier, so no group is ever thrown
    away or lost in a checkpoint. Later groups wait for one of `at_once` places and take the newest weights.
    """

    def __init__(self, dataset: RLDataset, end: int, roll: Roll, *, ahead: int = 0, at_once: int | None = None) -> None:
        self._dataset, self._end, self._roll, self._ahead = dataset, end, roll, ahead
        self._size = at_once
        self._places = asyncio.Semaphore(at_once) if at_once and ahead else None
        self._batches: dict[int, list[asyncio.Task[RolledGroup]]] = {}
        self._version, self._sampler = 0, None

    def begin(self, step: int, sampler: Any) -> None:
        """From now on, rollouts use these weights, those before update `step`."""
        self._version, self._sampler = step, sampler
        for index in range(step, min(step + self._ahead + 1, self._end)):
            if index not in self._batches:
                builders = self._checked(index, self._dataset.get_batch(index))
                self._batches[index] = [asyncio.create_task(self._rolled(builder)) for builder in builders]

    async def groups(self, step: int, minibatches: int) -> AsyncIterator[list[RolledGroup]]:
        """The groups of the batch in so many parts: all of them in order, or each part as soon as it is there."""
        tasks = self._batches.pop(step)
        try:
            if minibatches == 1:
                yield list(await asyncio.gather(*tasks))
                return
            part: list[RolledGroup] = []
            size = math.ceil(len(tasks) / minibatches)
            for count, task in enumerate(asyncio.as_completed(tasks), start=1):
                part.append(await task)
                if len(part) == size or count == len(tasks):
                    yield part
                    part = []
        finally:
            for task in tasks:
                task.cancel()

    async def close(self) -> None:
        """Stop what is under way."""
        tasks = [task for batch in self._batches.values() for task in batch]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _rolled(self, builder: EnvGroupBuilder) -> RolledGroup:
        if self._places is None:
            return await self._with_newest(builder)
        async with self._places:
            return await self._with_newest(builder)

    async def _with_newest(self, builder: EnvGroupBuilder) -> RolledGroup:
        version = self._version
        return RolledGroup(builder, await self._roll(builder, self._sampler), version)

    def _checked(self, index: int, builders: Sequence[EnvGroupBuilder]) -> Sequence[EnvGroupBuilder]:
        if not builders:
            raise DataError(f"batch {index} of the dataset has no groups; get_batch must return at least one")
        if self._size is not None and len(builders) > self._size:
            raise ConfigError(
                f"batch {index} of the dataset has {len(builders)} groups and groups_per_batch={self._size}; make them "
                "equal"
            )
        return builders
