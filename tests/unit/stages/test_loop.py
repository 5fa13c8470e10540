"""The loop around a step: what it goes on from, what it shows and keeps, and when it ends."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from byte_world import byte_context
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import CheckpointError, NonFiniteError
from thumbs.records import Example
from thumbs.stages.context import Context
from thumbs.stages.loop import Best, Loop, Metrics, Position, State, optimizer_step

TEXT = [Example.next_token(np.arange(97, 117), weights=np.full(19, 1 / 19))]


class World:
    """A model that learns a text; the state counts in a list, so that a shared one would show."""

    def __init__(self, folder: Path, **parts: Any) -> None:
        self.context: Context = byte_context(folder)
        self.model = self.context.engine.create(ModelSpec("m", self.context.model))
        self.steps: list[int] = []
        settings: dict[str, Any] = {"steps": 6, "save_every": 2, "shown": {"loss": "sft/loss"}, **parts}
        self.loop = Loop(
            self.context,
            title="toy",
            models={"m": self.model},
            keeps={self.context.best: self.model},
            **settings,
        )

    def step(self, number: int, state: State) -> Metrics:
        self.steps.append(number)
        state["seen"].append(number)
        output, _ = optimizer_step(self.context, number, self.model, TEXT, [CROSS_ENTROPY], AdamStep(1e-3, 1e-3))
        return {"sft/loss": output.loss}

    def run(self) -> Position:
        return self.loop.run(self.step, begin=lambda: {"seen": []})

    def logged(self) -> list[tuple[int, float]]:
        return [(row["step"], row["sft/loss"]) for row in self.context.folder.metrics.read()]


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """The run is killed within step `number`."""
    step = world.step

    def killed(here: int, state: State) -> Metrics:
        if here == number:
            raise KeyboardInterrupt
        return step(here, state)

    monkeypatch.setattr(world, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        world.run()


def test_a_run_that_was_killed_goes_on_from_its_checkpoint_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, killed = World(tmp_path / "whole"), World(tmp_path / "parts")
    expected = whole.run()
    stop_at(5, monkeypatch, killed)
    assert [step for step, _ in killed.logged()] == [1, 2, 3, 4, 5]
    again = World(tmp_path / "parts")
    assert again.run() == expected
    assert again.steps == [4, 5]
    assert again.logged() == whole.logged()
    assert (expected.step, expected.state) == (6, {"seen": [0, 1, 2, 3, 4, 5]})
    assert expected.first["sft/loss"] > expected.metrics["sft/loss"]


def test_more_steps_go_on_from_the_end(tmp_path: Path):
    whole = World(tmp_path / "whole", steps=7)
    expected = whole.run()
    World(tmp_path / "parts", steps=3).run()
    longer = World(tmp_path / "parts", steps=7)
    assert longer.run() == expected
    assert longer.steps == [3, 4, 5, 6]
    assert longer.logged() == whole.logged()


def test_samples_come_before_the_first_step_now_and_then_and_at_the_end(tmp_path: Path):
    taken: list[int] = []
    World(tmp_path, steps=5, samples=taken.append, sample_every=2).run()
    assert taken == [0, 2, 4, 5]


def test_alarms_compare_with_the_first_step_and_are_raised_when_their_sign_appears(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    def lower(first: Metrics, now: Metrics) -> dict[str, str]:
        return {"loss": "the loss fell"} if now["sft/loss"] < first["sft/loss"] else {}

    World(tmp_path / "low", steps=3, alarms=lower).run()
    assert capsys.readouterr().err == "alarm at toy step 2: the loss fell\n"  # and was still low at step 3
    seen = iter([{}, {"loss": "up"}, {"loss": "up"}, {}, {"loss": "up"}, {"loss": "up", "other": "odd"}])
    world = World(tmp_path / "again", steps=6, alarms=lambda first, now: next(seen))
    world.run()
    rows = [(row["step"], row["sign"]) for row in world.context.folder.alarms.read()]
    assert rows == [(2, "loss"), (5, "loss"), (6, "other")]


def test_a_loop_ends_early_and_is_done_then(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    world = World(tmp_path)
    first = world.context.engine.forward_backward(world.model, TEXT, [CROSS_ENTROPY]).loss
    world = World(tmp_path, is_spent=lambda metrics: "it is low" if metrics["sft/loss"] < first else None)
    assert world.run().step == 2
    assert "toy ends at step 2 of 6: it is low" in capsys.readouterr().err
    assert world.context.best.exists()
    again = World(tmp_path, is_spent=lambda metrics: "it is low" if metrics["sft/loss"] < first else None)
    assert again.run().step == 2
    assert again.steps == []


def test_patience_ends_a_loop_without_progress(tmp_path: Path):
    losses = iter([3.0, 2.0, 2.5, 2.1, 9.0])
    asked: list[int] = []

    def held_out(number: int, state: State, metrics: Metrics) -> float:
        asked.append(number)
        metrics["sft/heldout_loss"] = next(losses)
        return metrics["sft/heldout_loss"]

    at = World(tmp_path, steps=20, held_out=held_out, patience=2).run()
    assert asked == [2, 4, 6, 8]
    assert (at.step, at.best) == (8, Best(2.0, 4, 2))
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[3])["sft/heldout_loss"] == 2.0


@pytest.mark.parametrize("before", [None, 1.0])
def test_what_beats_the_best(before: float | None):
    best = Best(before, 1)
    assert best.is_beaten_by(0.5)
    assert best.is_beaten_by(None)
    assert best.is_beaten_by(1.0) == (before is None)


def test_a_checkpoint_that_lacks_something_is_refused(tmp_path: Path):
    World(tmp_path, steps=2).run()
    path = tmp_path / "checkpoints" / "latest.json"
    path.write_text(json.dumps({"step": 2, "state": {"step": 2, "state": {}}}))
    with pytest.raises(CheckpointError, match=r"latest\.json is damaged: it has no 'first'; delete the folder"):
        World(tmp_path).run()


def test_a_batch_that_is_not_finite_stops_the_run_and_is_kept(tmp_path: Path):
    world, bad = World(tmp_path), [Example.next_token([1, 2, 3], weights=[0.5, math.nan])]
    with pytest.raises(NonFiniteError, match=r"step 7.*nonfinite-step-7\.npz"):
        optimizer_step(world.context, 7, world.model, bad, [CROSS_ENTROPY], AdamStep(1e-3, 1e-3))
    assert (tmp_path / "nonfinite-step-7.npz").exists()
