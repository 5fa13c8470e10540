"""What the policies of a run are called, and in which order and colour they appear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thumbs.evaluation.results import BEST_OF_N
from thumbs.report.record import RunRecord
from thumbs.tracking.files import plain

SYSTEMS = {
    "base": "Base",
    "sft": "SFT",
    BEST_OF_N: "Best of n",
    "direct": "Direct alignment",
    "ppo": "PPO",
    "group": "Group",
    "rejection": "Rejection sampling",
}


def family(system: str) -> str:
    """What gives a system its colour: `ppo` for itself, for `ppo@2` on its way and for `iteration-2/ppo`."""
    name = system.rpartition("/")[2].partition("@")[0]
    return name if name in SYSTEMS else "ink"


def system_title(run: RunRecord, key: str) -> str:
    """A system for people: `PPO at 2 nats`, `Best of 4`, `PPO, iteration 2`."""
    n = run.setting("evaluation.best_of")
    iteration, _, name = key.rpartition("/")
    name, _, level = name.partition("@")
    title = f"Best of {n}" if name == BEST_OF_N and n else SYSTEMS.get(name, name)
    title += f" at {level} nats" if level else ""
    return f"{title}, {iteration.replace('-', ' ')}" if iteration else title


def reference_of(run: RunRecord) -> str:
    """The system that KL is measured from."""
    told = run.evaluation.get("reference")
    return str(told) if told else "sft" if "sft" in run.evaluation.get("systems", {}) else "base"


def ordered_systems(run: RunRecord) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(colour, title, numbers) of the evaluated systems in the order of the pipeline, those on their way apart."""
    systems = run.evaluation.get("systems", {})
    keys = [key for key in SYSTEMS if key in systems] + [key for key in systems if "/" in key and "@" not in key]
    return [(family(key), system_title(run, key), plain(systems[key])) for key in keys]
