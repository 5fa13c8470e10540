"""Config classes: keyword-only and frozen, as chz makes them where chz is installed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, dataclass_transform

from thumbs.errors import ConfigError

try:
    from chz import chz as _decorate
except ImportError:
    _decorate = dataclasses.dataclass(frozen=True, kw_only=True)

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config_class(cls: type[T]) -> type[T]:
    """Class decorator for configs.

    A class that is decorated with `@chz.chz` can inherit fields from other chz classes only, so where chz is installed
    our configs are chz classes; without it they are frozen dataclasses, and nobody can miss chz.
    """
    decorate: Callable[[type[T]], type[T]] = _decorate  # type: ignore[assignment]
    return decorate(cls)


def describe(value: Any) -> Any:
    """`value` for config.json: fields of configs by name, and the repr of what JSON cannot hold, such as a client."""
    fields = getattr(type(value), "__chz_fields__", None) or getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {"type": type(value).__qualname__, **{name: describe(getattr(value, name, None)) for name in fields}}
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [describe(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


@config_class
class RunConfig:
    """Settings of every recipe.

    log_path: folder of what the run writes; a run with the same folder goes on.
    model_name: base model. lora_rank: rank of a new adapter. load_checkpoint_path: a state_path to begin from.
    recipe_name, renderer_name: written down with the run. base_url: a server; None is this process.
    adam_*, weight_decay, grad_clip_norm (global norm, 0 is off): the optimizer.
    save_every: steps between checkpoints that are kept ttl_seconds (None is for good), 0 is never. rolling_save_every:
    checkpoints in between, to train on from only, kept rolling_ttl_seconds. max_steps: where to stop.
    wandb_*, session_name, enable_trace, span_chart_every: for scripts that set them. What they ask for is not there, so
    wandb_project and the last two are refused unless they are off.
    """

    log_path: str
    model_name: str
    recipe_name: str = ""
    load_checkpoint_path: str | None = None
    renderer_name: str | None = None
    lora_rank: int = 32
    base_url: str | None = None
    save_every: int = 20
    ttl_seconds: int | None = 604800
    rolling_save_every: int = 0
    rolling_ttl_seconds: int = 7200
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0
    max_steps: int | None = None
    wandb_project: str | None = None
    wandb_name: str | None = None
    session_name: str | None = None
    enable_trace: bool = False
    span_chart_every: int = 0


def check(config: RunConfig, **least: float) -> None:
    """Raises ConfigError where a field is below its least value, or asks for what is not there."""
    least = {"lora_rank": 1, "save_every": 0, "rolling_save_every": 0, "max_steps": 0, "learning_rate": 0, **least}
    for name, limit in least.items():
        value = getattr(config, name)
        if value is not None and not value >= limit:
            raise ConfigError(f"{name}={value!r}; it must be at least {limit}")
    for name, off, advice in _UNSUPPORTED:
        if (value := getattr(config, name, off)) != off:
            raise ConfigError(f"{name}={value!r} is not supported here; leave it at {off!r}: {advice}")


_UNSUPPORTED: tuple[tuple[str, Any, str], ...] = (
    ("wandb_project", None, "every number is in metrics.jsonl, which W&B can read afterwards"),
    ("enable_trace", False, "use a profiler from outside, such as py-spy"),
    ("span_chart_every", 0, "the times of each step are in metrics.jsonl under time/"),
    ("async_periodic_saves", False, "checkpoints are saved between two steps"),
)
