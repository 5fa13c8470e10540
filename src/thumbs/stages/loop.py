"""The loop around a step. Whatever a stage does besides its algorithm is here, once.

    go on where an interrupted run stopped → step → watch → held-out loss → log, alarms, samples → checkpoint → progress

A stage gives a `Loop` its parts and calls `run` with a function that makes one step. That function gets the number of
the step (from 0) and the state: plain data (numbers, text, lists and dicts of them) that it may change and that the
next step finds again, also in a run that was killed in between. It returns the numbers of the step for the log. As long
as a step depends on nothing but its number, the state and the weights, an interrupted run is the same run, bit for bit.

Within a step, `optimizer_step` is the usual pass, and `keep_milestones` keeps a policy at the KL that it was measured
at. Models are made before the loop and closed after it by the stage, which may still want to measure them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from thumbs.config.losses import LossSpec
from thumbs.engine.base import AdamStep, Handle, OptimReport
from thumbs.records import Example, TrainOutput
from thumbs.stages.context import Context, Resume, saving_batch
from thumbs.stages.watch import Watch
from thumbs.tracking.progress import Progress

Metrics = dict[str, float]
State = dict[str, Any]
Alarms = dict[str, str]
"""What is said of each sign."""


@dataclass(frozen=True)
class Best:
    """The weights that stay: their held-out loss (None if nothing is held out), their step, and the evaluations since
    then that were no better.
    """

    loss: float | None = None
    step: int = 0
    misses: int = 0

    def is_beaten_by(self, loss: float | None) -> bool:
        """Whether weights with this held-out loss take the place of these. Without a loss the later ones do."""
        return loss is None or self.loss is None or loss < self.loss


@dataclass(frozen=True)
class Position:
    """How far a loop is: the steps made, the state, the numbers of the first and of the last step, and which weights
    stay. A checkpoint keeps it.
    """

    step: int = 0
    state: State = field(default_factory=dict)
    first: Metrics = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)
    best: Best = Best()

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Position:
        """The position that a checkpoint kept."""
        return Position(**{**{name: saved[name] for name in vars(Position())}, "best": Best(**saved["best"])})


@dataclass(frozen=True)
class Loop:
    """The parts of a loop.

    title: names it in the progress bar and in messages. steps: how many there are at most.
    models: what a checkpoint holds, by name. keeps: the weights that the stage leaves, by folder; written whenever the
    held-out loss is the lowest so far, and without `held_out` at the end.
    shown: the numbers next to the progress bar, from their labels to the names of the metrics.
    save_every: steps between checkpoints; the last step is always one.
    held_out: called before each checkpoint with the number of steps made, the state and the step's numbers, to which it
    adds its own; returns the held-out loss, or None. keep_last: the weights of the last checkpoint stay, whatever their
    loss. patience: evaluations in a row without a lower loss after which the loop ends.
    samples: writes samples for the report, given the number of steps made: before the first step, each `sample_every`
    steps and after the last.
    alarms: what looks wrong in the numbers of a step next to those of the first, by the sign.
    watch: looks at the policy before the first step, every so many steps and after number `steps`; the weights that it
    goes back to are those that the stage leaves.
    is_spent: why the loop ends early after a step with these numbers; None to go on.
    logged: how many lines the log has after a step, from the state, for steps that write some of their own.
    before_save: puts into the state what a checkpoint is to keep and only a checkpoint needs.
    """

    context: Context
    title: str
    steps: int
    models: Mapping[str, Handle]
    keeps: Mapping[Path, Handle]
    shown: Mapping[str, str]
    save_every: int
    held_out: Callable[[int, State, Metrics], float | None] | None = None
    keep_last: bool = False
    patience: float = math.inf
    samples: Callable[[int], None] | None = None
    sample_every: int = 1
    alarms: Callable[[Metrics, Metrics], Alarms] | None = None
    watch: Watch | None = None
    is_spent: Callable[[Metrics], str | None] | None = None
    logged: Callable[[State], int] | None = None
    before_save: Callable[[State], None] | None = None

    def run(self, step: Callable[[int, State], Metrics], begin: Callable[[], State] = dict) -> Position:
        """Makes the steps that are left. `begin` gives the state before the first one, unless there is a checkpoint."""
        resume = Resume(self.context, self.models)
        _, saved = resume.load()
        at = Position.of(saved) if saved else Position()
        if not saved:
            at, seen = replace(at, state=begin()), {}
            self._raise(self._look(0, at.state, seen), 0, 0)
            if seen:
                self.context.folder.metrics.log(0, seen)
            self._sample(0)
        with Progress(self.title, self.steps, self.shown) as bar:
            bar.advance(at.step)
            while at.step < self.steps and not self._reason(at):
                metrics = step(at.step, at.state)
                at = replace(at, step=at.step + 1, metrics=metrics, first=at.first or metrics)
                alarms = self._look(at.step, at.state, metrics) | self._compare(at, metrics)
                last = at.step == self.steps or self._reason(at) is not None
                due = last or at.step % self.save_every == 0
                if due and self.held_out is not None:
                    at = replace(at, best=self._evaluate(at, self.held_out))
                line = at.step if self.logged is None else self.logged(at.state)
                self.context.folder.metrics.log(line, metrics)
                self._raise(alarms, at.step, line)
                if last or at.step % self.sample_every == 0:
                    self._sample(at.step)
                if due:
                    if self.before_save is not None:
                        self.before_save(at.state)
                    resume.save(line, {**vars(at), "best": vars(at.best)})
                bar.advance(**{label: metrics.get(name) for label, name in self.shown.items()})
        if reason := self._reason(at):
            _say(f"{self.title} ends at step {at.step} of {self.steps}: {reason}")
        rolled_back = self._roll_back(at.state)
        if rolled_back or self.held_out is None:
            self._keep()
        return at

    def _reason(self, at: Position) -> str | None:
        """Why the loop ends before all steps are made; None if it does not."""
        if at.best.misses >= self.patience:
            return f"the held-out loss has not fallen in {at.best.misses} evaluations"
        if self.watch is not None and (why := self.watch.why_ended(at.state)):
            return why
        return self.is_spent(at.metrics) if self.is_spent is not None and at.step else None

    def _compare(self, at: Position, metrics: Metrics) -> Alarms:
        """What looks wrong in the numbers of a step, and did not in those of the step before."""
        if self.alarms is None:
            return {}
        found = self.alarms(at.first, metrics)
        before, at.state["signs"] = at.state.get("signs", []), [*found]
        return {sign: text for sign, text in found.items() if sign not in before}

    def _raise(self, alarms: Alarms, number: int, line: int) -> None:
        for sign, alarm in alarms.items():
            self.context.folder.alarms.append(line, {"sign": sign, "alarm": alarm})
            _say(f"alarm at {self.title} step {number}: {alarm}")

    def _roll_back(self, state: State) -> bool:
        best = None if self.watch is None else self.watch.roll_back(state)
        if best is not None:
            _say(f"{self.title}: the policy is that of step {best} again")
        return best is not None

    def _look(self, number: int, state: State, metrics: Metrics) -> Alarms:
        """Adds what the watch sees after so many steps to the numbers; returns its alarms."""
        if self.watch is None or (number % self.watch.config.every and number < self.steps):
            return {}
        found, alarms = self.watch.look(number, state)
        metrics |= found
        return alarms

    def _evaluate(self, at: Position, held_out: Callable[[int, State, Metrics], float | None]) -> Best:
        loss = held_out(at.step, at.state, at.metrics)
        if not self.keep_last and not at.best.is_beaten_by(loss):
            return replace(at.best, misses=at.best.misses + 1)
        self._keep()
        return Best(loss, at.step)

    def _keep(self) -> None:
        for path, model in self.keeps.items():
            self.context.engine.save(model, path)

    def _sample(self, number: int) -> None:
        if self.samples is not None:
            self.samples(number)


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def optimizer_step(
    context: Context, number: int, model: Handle, data: Sequence[Example], losses: Sequence[LossSpec], adam: AdamStep
) -> tuple[TrainOutput, OptimReport]:
    """One pass over the data and one step of the optimizer; a batch that is not finite is kept for step `number`."""
    with saving_batch(context, number, data):
        output = context.engine.forward_backward(model, data, losses)
        return output, context.engine.optim_step(model, adam)
