"""TRL's trainers in the benchmark: each of their steps is a turn."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from turns import Turns


class OneStepATurn(TrainerCallback):
    """Stops between steps until it is this worker's turn; `figures` go into the report of the step and begin anew."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.figures = turns, dict[str, float]()

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.turns.ready()
        self.turns.next()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.turns.done(**self.figures)
        self.figures = {}
        self.turns.next()
