"""The loop of supervised training and DPO: epochs over batches of datums."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thumbs.errors import DataError
from thumbs.recipe.configs import RunConfig, check, config_class
from thumbs.recipe.eval.evaluators import Evaluator, EvaluatorBuilder, evaluate, is_due
from thumbs.recipe.run_log import RunLog, checkpoint_manager
from thumbs.recipe.schedules import LRSchedule, compute_schedule_lr_multiplier
from thumbs.recipe.supervised.types import SupervisedDataset, SupervisedDatasetBuilder

log = logging.getLogger(__name__)

Answers = Callable[[], Awaitable[dict[str, float]]]
Submit = Callable[[int, Sequence[Any], float], Answers]
"""Hands a step, its datums and its learning rate to the client; what it returns waits for the metrics."""


@config_class
class EpochConfig(RunConfig):
    """Settings of recipes that train on a dataset.

    num_epochs: the length. lr_schedule goes by it also where max_steps ends a run early, so that it can be continued.
    eval_every, infrequent_eval_every: steps between runs of the evaluators, 0 is never; a test dataset is evaluated
    every eval_every steps, and all that run at all run after the last step too.
    """

    dataset_builder: SupervisedDatasetBuilder
    lr_schedule: LRSchedule = "linear"
    num_epochs: int = 1
    evaluator_builders: Sequence[EvaluatorBuilder] = ()
    infrequent_evaluator_builders: Sequence[EvaluatorBuilder] = ()
    eval_every: int = 10
    infrequent_eval_every: int = 100
    learning_rate: float = 1e-4


@dataclass(frozen=True)
class EpochRun:
    """A run that has something left to do."""

    config: EpochConfig
    log: RunLog
    dataset: SupervisedDataset
    test: SupervisedDataset | None
    end: int

    @classmethod
    def prepare(cls, config: EpochConfig) -> EpochRun | None:
        """The run of a config; None where all its steps were done before. Raises ConfigError and DataError."""
        check(config, num_epochs=1, eval_every=0, infrequent_eval_every=0)
        compute_schedule_lr_multiplier(config.lr_schedule, 0, 1)
        run_log = RunLog(config.log_path)
        dataset, test = config.dataset_builder()
        if len(dataset) == 0:
            raise DataError("the dataset has no batch; lower its batch_size or give it more rows")
        total = len(dataset) * config.num_epochs
        end = total if config.max_steps is None else min(total, config.max_steps)
        if run_log.first_step >= end:
            log.info("%s: all %d steps were done before", config.log_path, end)
            return None
        return cls(config, run_log, dataset, test, end)

    async def train(
        self,
        services: Any,
        client: Any,
        submit: Submit,
        test_evaluators: Sequence[Evaluator],
        *,
        ahead: int = 0,
        extra: dict[str, str] | None = None,
    ) -> None:
        """Run the steps, at most `ahead` of them submitted before the metrics of the one before are there.

        extra: what checkpoints say beside where they are.
        """
        self.log.start(self.config)
        saves = checkpoint_manager(client, services, self.config, extra)
        evaluators = self._evaluators(test_evaluators)
        total, seen = len(self.dataset) * self.config.num_epochs, 0
        pending: deque[tuple[int, float, dict[str, float], Answers]] = deque()
        for step in range(self.log.first_step, self.end):
            epoch, batch = divmod(step, len(self.dataset))
            if step == self.log.first_step or batch == 0:
                self.dataset.set_epoch(epoch)
            due = [evaluator for evaluator, every in evaluators if is_due(step, every)]
            metrics = await evaluate(due, client)  # of the weights before this step
            data = self.dataset.get_batch(batch)
            rate = self.config.learning_rate * compute_schedule_lr_multiplier(self.config.lr_schedule, step, total)
            metrics |= {"epoch": epoch, "progress": step / total, "learning_rate": rate}
            tokens = sum(datum.model_input.length for datum in data)
            seen += tokens
            pending.append((step, time.monotonic(), metrics | {"num_tokens": tokens}, submit(step, data, rate)))
            due_now = saves.should_save(step + 1, elapsed_tokens=seen)
            while len(pending) > (0 if due_now else ahead):
                await self._finish(*pending.popleft())
            if due_now:
                await saves.maybe_save_async(step + 1, self._state(step + 1), elapsed_tokens=seen)
        for item in pending:
            await self._finish(*item)
        if metrics := await evaluate([evaluator for evaluator, _ in evaluators], client):
            self.log.log_metrics(self.end, metrics)
        await saves.save_final_async(self._state(self.end))

    def _state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after so many steps says of the loop: the batch that runs next."""
        epoch, batch = divmod(step, len(self.dataset))
        return {"step": step, "epoch": epoch, "batch": batch, "final": False}

    async def _finish(self, step: int, started_s: float, metrics: dict[str, float], answers: Answers) -> None:
        """Log a step, once the client has run it."""
        answered = await answers()
        self.log.log_metrics(step, {**metrics, **answered, "time/step": time.monotonic() - started_s})

    def _evaluators(self, test_evaluators: Sequence[Evaluator]) -> list[tuple[Evaluator, int]]:
        """Each evaluator and how many steps lie between two of its runs."""
        config = self.config
        often = [*(build() for build in config.evaluator_builders), *test_evaluators]
        rare = [build() for build in config.infrequent_evaluator_builders]
        pairs = [(one, config.eval_every) for one in often] + [(one, config.infrequent_eval_every) for one in rare]
        return [(one, every) for one, every in pairs if every]
