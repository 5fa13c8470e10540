"""Ranks that fail, stand still or have little room, for the tests of crews."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from pathlib import Path
from typing import Any

from thumbs.engine.base import ModelSpec
from thumbs.engine.plan import Cut
from thumbs.engine.rank import Rank
from thumbs.engine.sharded_rank import ShardedRank


class Failing:
    """Of two, the second does something else in the second micro-batch of each model."""

    number: int

    def create(self, number: int, spec: ModelSpec, module: str | None) -> Cut:
        found = super().create(number, spec, module)  # type: ignore[misc]
        model: Any = self._model(number)  # type: ignore[attr-defined]
        plain, count = model.of_hidden, itertools.count(1)

        def of_hidden(*args: Any, **options: Any) -> Any:
            return self.instead() if next(count) == 2 else plain(*args, **options)

        if self.number == 1:
            model.of_hidden = of_hidden
        return found

    def instead(self) -> Any:
        sys.stdout.write("about to divide\n")
        return 1 / 0


class FailingRank(Failing, Rank):
    """With whole models."""


class FailingShardedRank(Failing, ShardedRank):
    """With parts of weights: the others wait for it in a collective."""


class Stuck(Failing):
    def instead(self) -> Any:
        sys.stdout.write("about to wait\n")
        threading.Event().wait()


class StuckRank(Stuck, Rank):
    """It waits for ever."""


class StuckShardedRank(Stuck, ShardedRank):
    """It waits for ever, and so do the others."""


class BusyRank(FailingRank):
    """While the second fails, the first is at work until a file is there."""

    def compute(self, number: int, *args: Any, **options: Any) -> Any:
        busy = Path(str(self._model(number).spec.start))
        while self.number == 0 and not (busy / "enough").exists():
            time.sleep(0.05)
        return super().compute(number, *args, **options)


class SmallRank(Rank):
    """The device of the first has room for 4000 tokens, that of the second for 24."""

    computed: list[list[int]]

    def create(self, number: int, spec: ModelSpec, module: str | None) -> Cut:
        self.computed = []
        return super().create(number, spec, module)._replace(budget=(4000, 24)[self.number])

    def compute(self, number: int, parts: Any, *args: Any, **options: Any) -> Any:
        self.computed += [sorted(part) for part in parts if part]
        return super().compute(number, parts, *args, **options)

    def so_far(self) -> list[list[int]]:
        """The datums of each micro-batch that it computed."""
        return self.computed
