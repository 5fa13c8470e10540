"""Which two settings to halve if a run takes too long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thumbs.config.base import apply_overrides, build_config
from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import ConfigError
from thumbs.pipeline.inputs import Inputs
from thumbs.pipeline.probe import Probe
from thumbs.pipeline.workload import work_of

HALVED = (
    "sft.epochs", "reward_model.epochs", "cost_model.epochs", "direct.epochs", "direct.online.steps", "ppo.steps",
    "ppo.epochs", "group.steps", "group.epochs", "rejection.rounds", "rejection.epochs",
    "rejection.replies_per_prompt", "labels.replies_per_prompt", "evaluation.best_of",
)  # fmt: skip
"""Settings to whose value time is about proportional, and whose half is a run of the same kind."""


@dataclass(frozen=True)
class Saving:
    """A setting with about half its value. left: seconds of the whole run with it and those before it."""

    key: str
    value: int
    left: float

    @property
    def text(self) -> str:
        """As it is typed behind `thumbs run CONFIG`."""
        return f"{self.key}={self.value}"


def savings(config: PipelineConfig, inputs: Inputs, probe: Probe) -> tuple[Saving, ...]:
    """The setting that saves the most, and the one that saves the most after it; only those that save a tenth."""
    raw = config.model_dump(exclude_unset=True)
    found: list[Saving] = []
    left = _seconds(config, inputs, probe)
    for _ in range(2):
        others = [key for key in HALVED if key not in {saving.key for saving in found}]
        best = min(_halved(raw, others, inputs, probe), key=lambda s: s.left, default=None)
        if best is None or best.left > 0.9 * left:
            break
        found.append(best)
        raw, left = apply_overrides(raw, [best.text]), best.left
    return tuple(found)


def _halved(raw: Mapping[str, Any], keys: Sequence[str], inputs: Inputs, probe: Probe) -> list[Saving]:
    """The run with one setting halved, for each of the keys for which that is a run."""
    config, found = build_config(PipelineConfig, raw), []
    for key in keys:
        section: Any = config
        for name in key.split("."):
            section = getattr(section, name, None)
        if not isinstance(section, int) or section < 2:
            continue
        try:
            other = build_config(PipelineConfig, apply_overrides(raw, [f"{key}={section // 2}"]))
        except ConfigError:  # half of it fits nothing else
            continue
        found.append(Saving(key, section // 2, _seconds(other, inputs, probe)))
    return found


def _seconds(config: PipelineConfig, inputs: Inputs, probe: Probe) -> float:
    return sum(map(probe.seconds, work_of(config, inputs)))
