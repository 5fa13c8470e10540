"""What every stage is given, and how it goes on after an interruption."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from thumbs.config.engine import RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.config.optim import AdamConfig
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.base import AdamStep, Engine, Handle
from thumbs.errors import CheckpointError, NonFiniteError
from thumbs.records import Example
from thumbs.rollout.rounds import seed_of
from thumbs.safety.filters import FilterSet
from thumbs.tracking.files import read_object, write_json
from thumbs.tracking.run_folder import StageFolder

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """The engine, the tokenizer, the stage's folder, the model settings and the seed of the run.

    frontier: KL levels (nats per sequence) at which a method keeps its policy, to be judged along with the last one.
    rollout: how far ahead of training rollouts are drawn. filters: what prompts and replies are not trained on.
    """

    engine: Engine
    tokenizer: Tokenizer
    folder: StageFolder
    model: ModelConfig
    seed: int
    frontier: tuple[float, ...] = ()
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    filters: FilterSet | None = None

    @property
    def best(self) -> Path:
        """Where the stage leaves the weights that the next one takes."""
        return self.folder.path / "model"


class Resume:
    """Checkpoints of a stage: weights, optimizer and a little state, complete or absent.

    `latest.json` names the newest one and is replaced last, so a crash at any moment leaves a usable checkpoint.
    """

    def __init__(self, context: Context, models: Mapping[str, Handle]) -> None:
        self.context, self.models = context, models
        self.path, self.end = context.folder.path / "checkpoints", context.folder.path / "end"

    def load(self) -> tuple[int, dict[str, Any]]:
        """Restores the models; returns the step to go on from and the saved state: (0, {}) for a fresh start.

        What was logged after that step is dropped, since it will be logged again.
        """
        step, state, logged = 0, {}, -1  # a fresh start logs its step 0 again
        if (self.path / "latest.json").exists():
            latest = read_object(self.path / "latest.json")
            step, state = int(latest.number("step")), latest.section("state")
            logged = step
            try:
                for name, handle in self.models.items():
                    self.context.engine.load(handle, self.path / f"step-{step:06d}" / name)
            except CheckpointError as error:
                raise CheckpointError(f"{error}, or delete {self.path} to start this stage alone over") from error
        self.context.folder.metrics.truncate_after(logged)
        if not state:
            self.context.folder.stragglers.truncate_after(-1)  # otherwise they are cut again, for the same numbers
        self.context.folder.samples.truncate_after(logged)
        self.context.folder.alarms.truncate_after(logged)
        self.context.folder.filtered.truncate_after(max(logged, 0))  # those of step 0 are prompts
        return step, state

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and removes the older ones."""
        target = self.path / f"step-{step:06d}"
        for name, handle in self.models.items():
            self.context.engine.save(handle, target / name, optimizer=True)
        write_json(self.path / "latest.json", {"step": step, "state": dict(state)})
        for old in self.path.glob("step-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)

    def close(self, *, keep: bool) -> None:
        """Removes all checkpoints of a stage that is done; `keep` puts the last one away, for more steps later."""
        if keep and self.path.exists():
            shutil.rmtree(self.end, ignore_errors=True)
            self.path.rename(self.end)
        shutil.rmtree(self.path, ignore_errors=True)

    def reopen(self) -> None:
        """Makes a stage that is done go on from its last checkpoint; stopped anywhere, this can be repeated."""
        if self.end.exists():
            shutil.rmtree(self.path, ignore_errors=True)
            self.end.rename(self.path)
        (self.context.folder.path / "done.json").unlink(missing_ok=True)


def batch_at(rows: Sequence[T], step: int, size: int, *seed: int | str) -> list[T]:
    """Batch number `step` of an endless stream of shuffled epochs; depends on nothing but its arguments.

    Batches do not cross epochs; the last one of an epoch may be smaller.
    """
    return grouped_batch_at([[row] for row in rows], step, size, *seed)


def grouped_batch_at(groups: Sequence[Sequence[T]], step: int, size: int, *seed: int | str) -> list[T]:
    """What `batch_at` gives, with rows of one group side by side; groups are shuffled, and so are the rows in each."""
    per_epoch = math.ceil(sum(map(len, groups)) / size)
    epoch, place = divmod(step, per_epoch)
    random = np.random.default_rng(seed_of(*seed, epoch))
    order = [groups[i] for i in random.permutation(len(groups))]
    rows = [group[i] for group in order for i in (random.permutation(len(group)) if len(group) > 1 else (0,))]
    return rows[place * size : (place + 1) * size]


def adam_at(config: AdamConfig, step: int, steps: int) -> AdamStep:
    """Optimizer settings at step 0 … steps - 1: linear warm-up from 0, then the schedule down to 0."""
    warmup = round(config.warmup_fraction * steps)
    if step < warmup:
        share = (step + 1) / (warmup + 1)
    else:
        progress = (step - warmup) / max(steps - warmup, 1)
        share = {
            "constant": 1.0,
            "linear": 1.0 - progress,
            "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        }[config.schedule]
    head = config.learning_rate if config.head_learning_rate is None else config.head_learning_rate
    return AdamStep(
        learning_rate=config.learning_rate * share,
        head_learning_rate=head * share,
        beta1=config.beta1,
        beta2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
    )


@contextmanager
def saving_batch(context: Context, step: int, data: Sequence[Example]) -> Iterator[None]:
    """Where a loss or gradient is not finite, writes the batch next to the metrics and says where."""
    try:
        yield
    except NonFiniteError as error:
        path = context.folder.path / f"nonfinite-step-{step}.npz"
        arrays = {f"{i}/inputs": datum.inputs for i, datum in enumerate(data)}
        arrays |= {f"{i}/{name}": column for i, datum in enumerate(data) for name, column in datum.columns.items()}
        np.savez(path, allow_pickle=False, **arrays)
        raise NonFiniteError(
            f"step {step}: {error}. The batch is in {path}; the last checkpoint is untouched. "
            "Lower the learning rate, or look for broken rows in the batch"
        ) from None
