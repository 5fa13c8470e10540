"""Metric logs for training loops that people write themselves: a file, and a table in the terminal."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import thumbs
from thumbs.errors import ConfigError
from thumbs.recipe.configs import describe
from thumbs.tracking import StepLog, write_json


class Logger(ABC):
    """Takes the settings and the metrics of a run."""

    @abstractmethod
    def log_hparams(self, config: Any) -> None:
        """Take the settings, once."""

    @abstractmethod
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Take the metrics of a step; without a number, of the step after the last."""

    def log_long_text(self, key: str, text: str) -> None:
        """Take a text; left out here."""
        del key, text

    def close(self) -> None:
        """The run is over."""
        return None

    def sync(self) -> None:
        """Write what is still held."""
        return None

    def get_logger_url(self) -> str | None:
        """Where the log can be looked at; None where that is nowhere."""
        return None


class JsonLogger(Logger):
    """config.json and metrics.jsonl of a folder."""

    def __init__(self, log_dir: str | Path) -> None:
        self._folder = Path(log_dir).expanduser()
        self._metrics = StepLog(self._folder / "metrics.jsonl")
        self._next = 0

    def log_hparams(self, config: Any) -> None:
        """Write config.json."""
        write_json(self._folder / "config.json", describe(config))

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append a line to metrics.jsonl."""
        step = self._next if step is None else step
        self._next = step + 1
        self._metrics.append(step, describe(dict(metrics)))


class PrettyPrintLogger(Logger):
    """Lines on the standard output."""

    def log_hparams(self, config: Any) -> None:
        """Print the settings."""
        sys.stdout.write(f"{describe(config)}\n")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Print a metric a line."""
        width = max(map(len, metrics), default=0)
        rows = (
            f"  {name:{width}}  {v:.6g}" if isinstance(v, float) else f"  {name:{width}}  {v}"
            for name, v in metrics.items()
        )
        sys.stdout.write("\n".join([f"step {'' if step is None else step}", *rows]) + "\n")


class MultiplexLogger(Logger):
    """Several at once."""

    def __init__(self, loggers: Sequence[Logger]) -> None:
        self.loggers = list(loggers)

    def log_hparams(self, config: Any) -> None:
        """Hand the settings to all."""
        for one in self.loggers:
            one.log_hparams(config)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Hand the metrics to all."""
        for one in self.loggers:
            one.log_metrics(metrics, step)

    def close(self) -> None:
        """Close all."""
        for one in self.loggers:
            one.close()


def setup_logging(
    log_dir: str,
    wandb_project: str | None = None,
    wandb_name: str | None = None,
    config: Any | None = None,
    do_configure_logging_module: bool = True,
) -> Logger:
    """A logger to a folder and the terminal. Raises ConfigError for a wandb_project: no such service is asked here."""
    del wandb_name
    if wandb_project is not None:
        raise ConfigError(f"wandb_project={wandb_project!r} is not supported; {log_dir}/metrics.jsonl has every number")
    logger = MultiplexLogger([JsonLogger(log_dir), PrettyPrintLogger()])
    if config is not None:
        logger.log_hparams(config)
    if do_configure_logging_module:
        configure_logging_module(str(Path(log_dir).expanduser() / "logs.log"))
    return logger


def configure_logging_module(path: str, level: int = logging.INFO) -> logging.Logger:
    """The root logger, which writes to the terminal and to a file from now on."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    form = "%(name)s:%(lineno)d [%(levelname)s] %(message)s"
    logging.basicConfig(
        level=level, format=form, handlers=[logging.StreamHandler(), logging.FileHandler(path)], force=True
    )
    return logging.getLogger()


dump_config = describe


def recipe_user_metadata(recipe_name: str) -> dict[str, str]:
    """What a script says of itself to a service."""
    return {"recipe_name": recipe_name, "thumbs_version": thumbs.__version__}
