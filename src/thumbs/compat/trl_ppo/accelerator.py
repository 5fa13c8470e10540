"""What loops ask of `ppo_trainer.accelerator`, answered for one process; and where statistics are logged."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.errors import ConfigError, MissingExtra, needs
from thumbs.tracking.files import StepLog


class Accelerator:
    """One process on one device. `prepare` and `unwrap_model` give back what they get."""

    num_processes, process_index, local_process_index = 1, 0, 0
    is_main_process = is_local_main_process = sync_gradients = True
    distributed_type = "NO"

    def __init__(self, device: torch.device, config: PPOConfig) -> None:
        self.device = device
        self.gradient_accumulation_steps = config.gradient_accumulation_steps
        self._sinks = _sinks(config)
        self._steps = 0

    def unwrap_model(self, model: Any, **_: Any) -> Any:
        """The model itself."""
        return model

    def prepare(self, *things: Any) -> Any:
        """The things themselves; they are where they should be."""
        return things[0] if len(things) == 1 else things

    def gather(self, tensor: Tensor) -> Tensor:
        """The tensor itself, since there is one process."""
        return tensor

    gather_for_metrics = gather

    def wait_for_everyone(self) -> None:
        """There is nobody else."""

    def print(self, *words: Any, **keywords: Any) -> None:
        """As Python's."""
        print(*words, **keywords)  # noqa: T201

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """There is nobody else."""
        yield

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Hands the values to the trackers."""
        self._steps += 1
        for sink in self._sinks:
            sink(values, self._steps if step is None else step)

    def end_training(self) -> None:
        """Nothing is open."""


Sink = Callable[[Mapping[str, Any], int], None]
"""Takes a step's values."""


def _sinks(config: PPOConfig) -> list[Sink]:
    sinks: list[Sink] = []
    folder = config.project_kwargs.get("logging_dir") or config.project_kwargs.get("project_dir")
    if folder:
        log = StepLog(Path(folder) / "ppo_stats.jsonl")
        sinks.append(lambda values, step: log.append(step, values))
    if config.log_with not in (None, "wandb", "tensorboard"):
        raise ConfigError(f"log_with={config.log_with!r}; allowed are None, 'wandb' and 'tensorboard'")
    try:
        if config.log_with is not None:
            sinks.append(_wandb(config) if config.log_with == "wandb" else _tensorboard(folder))
    except MissingExtra as error:
        elsewhere = "or set project_kwargs={'logging_dir': …} for a file of JSON lines"
        warnings.warn(f"{error}, {elsewhere}; nothing is sent there", stacklevel=4)
    return sinks


def _wandb(config: PPOConfig) -> Sink:
    with needs("trackers", "log_with='wandb'"):
        import wandb  # pyright: ignore[reportMissingImports] (an optional package)

    settings = config.tracker_kwargs.get("wandb", {})
    run = wandb.init(project=config.tracker_project_name, config=config.to_dict(), **settings)
    return lambda values, step: run.log(dict(values), step=step)


def _tensorboard(folder: str | None) -> Sink:
    with needs("trackers", "log_with='tensorboard'"):
        from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder)

    def write(values: Mapping[str, Any], step: int) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                writer.add_scalar(name, value, step)

    return write
