"""Settings of the programs that show a run's numbers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from thumbs.config.base import Frozen


class TrackerConfig(Frozen):
    """A program that shows the numbers of runs; its kind alone is short for a tracker of that kind."""

    kind: str = Field(min_length=1)
    """trackio, wandb, tensorboard, mlflow, or module:name of your own (pipeline/trackers.py)."""
    project: str = Field(default="thumbs", min_length=1)
    """The project, or experiment, that the run belongs to; tensorboard has none."""
    name: str | None = None
    """What the run is called there; null: as its folder."""

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_kind(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given
