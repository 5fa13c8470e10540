"""What a stage is: its settings, what it read, and the stages that it builds on.

A stage that has begun goes on, or counts as done, for a config that gives it the same identity; while nothing of it is
trained, its settings are free. The identity holds contents and not places, so data and runs may move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thumbs.config.data import DataConfig
from thumbs.config.optim import AdamConfig
from thumbs.config.pipeline import METHODS, PipelineConfig, place
from thumbs.config.reward_parts import OWN_COST, RUNS_OWN
from thumbs.pipeline.reads import Files, data_files, is_local_file, model_files, reads, sections
from thumbs.stages.context import adam_at
from thumbs.tracking.digests import text_digest
from thumbs.tracking.files import read_object, read_object_if_there, write_json
from thumbs.tracking.run_folder import flat_settings, setting_changes

IDENTITY = "identity.json"

FREE = ("save_every", "people.host", "people.port", "people.serve", "min_rows", "min_kept")
"""Ends of dotted keys that change nothing of what a stage makes."""

GROWING = {"ppo": "ppo.steps", "group": "group.steps", "direct": "direct.online.steps"}
"""Settings that may become larger after the stage has begun, and even after it is done."""

SAMPLING = dict.fromkeys(GROWING, ("kind", "staleness", "cut_after_s"))
SAMPLING |= {"labels": ("kind",), "rejection": ("kind",), "evaluation": ("kind",)}
"""Settings of `rollout:` that change what a stage makes."""


@dataclass(frozen=True)
class Identity:
    """settings by dotted key; files read, by the key that names them; digests of the stages that it builds on.

    defaults: the settings that have their default value, which a run of an older version need not know.
    """

    settings: dict[str, Any]
    read: dict[str, Files] = field(default_factory=dict)
    built_on: dict[str, str] = field(default_factory=dict)
    defaults: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def digest(self) -> str:
        """A number that changes with any of it."""
        return text_digest([self.settings, self.read, self.built_on])

    def write(self, stage: Path) -> None:
        """Puts it into the folder of its stage."""
        parts = {"settings": self.settings, "read": self.read, "built_on": self.built_on}
        write_json(stage / IDENTITY, parts)


def read_identity(stage: Path) -> Identity | None:
    """What the folder of a stage says that it is; None if it says nothing (made by thumbs before 0.2)."""
    if not (stage / IDENTITY).exists():
        return None
    found = read_object(stage / IDENTITY)
    settings, read, built_on = (found.section(name) for name in ("settings", "read", "built_on"))
    return Identity(dict(settings), {key: list(files) for key, files in read.items()}, dict(built_on))


def identity_of(config: PipelineConfig, stage: str, iteration: int, built_on: Mapping[str, str]) -> Identity:
    """What a stage of `config` would be; built_on: digests of the stages that it builds on.

    Reads (and hashes) what the stage would read; raises ConfigError or ModelError for a name that is none.
    """
    read = reads(getattr(config, stage), stage) | {"model.name": model_files(config.model.name)}
    if _mixes_sft(config, stage):
        assert config.sft is not None  # noqa: S101
        read |= reads(config.sft.data, "sft.data")
    if stage in METHODS and config.watch is not None:
        read |= reads(config.watch, "watch")
    if stage in METHODS and config.safety is not None:
        lists = ((place, each.path) for place, each in enumerate(config.safety.filters) if each.path)
        read |= {f"safety.filters.{place}.path": data_files(path) for place, path in lists}
    read = {key: files for key, files in read.items() if files}
    return Identity(settings_of(config, stage), read, dict(built_on), _at_default(config, stage))


def settings_of(config: PipelineConfig, stage: str) -> dict[str, Any]:
    """All settings that the outcome of a stage depends on, by dotted key; data files count by content, not by name."""
    own: dict[str, Any] = {stage: getattr(config, stage), "model": config.model}
    if _mixes_sft(config, stage):
        assert config.sft is not None  # noqa: S101
        own["sft.data"] = config.sft.data
    flat: dict[str, Any] = {"seed": config.seed, "system": config.system}
    if stage in ("sft", "cost_model", "reward_model", *METHODS):
        flat["engine.optimizer"] = config.engine.optimizer
    flat |= {f"rollout.{name}": getattr(config.rollout, name) for name in SAMPLING.get(stage, ())}
    flat |= _filters(config, stage)
    for key, section in own.items():
        flat |= flat_settings(section.model_dump(mode="json"), key)
        for path, part in sections(section, key):
            if isinstance(part, DataConfig):
                flat.pop(f"{path}.path", None)
                flat[f"{path}.sources"] = _without_places(part)
    if stage in ("ppo", "group", "evaluation"):
        flat["fixed_prompts"] = list(config.fixed_prompts)
    if stage in METHODS and config.watch is not None:
        flat |= flat_settings(config.watch.model_dump(mode="json"), "watch")
    if stage in METHODS and config.evaluation is not None:
        flat["evaluation.frontier"] = list(config.evaluation.frontier)
    if stage in METHODS and stage != "ppo" and config.ppo is not None and asks_own_reward(config, stage):
        flat["ppo.score_scale"] = config.ppo.score_scale
    return {key: value for key, value in flat.items() if not key.endswith(tuple(f".{name}" for name in FREE))}


def parents(config: PipelineConfig, stage: str, iteration: int) -> list[str]:
    """The places of the stages whose results a stage reads, in the order of the run."""
    every = range(1, iteration + 1)
    methods = [name for name in METHODS if getattr(config, name) is not None]
    start = ["sft"] if config.sft is not None else []
    begin = start if iteration == 1 else [place(methods[0], iteration - 1)]
    pairs = [place("labels", i) for i in every] if config.labels is not None else []
    scorer = [place("reward_model", iteration)] if config.reward_model is not None else []
    if stage == "sft":
        return []
    if stage == "evaluation":
        policies = [place(name, i) for i in range(1, config.iterations + 1) for name in methods]
        return (
            start + ([place("reward_model", config.iterations)] if config.reward_model is not None else []) + policies
        )
    if stage == "labels":
        c = config.labels
        active = c is not None and c.people is not None and c.people.active is not None and iteration > 1
        known = [place("reward_model", iteration - 1)] if active and config.reward_model is not None else []
        return [] if c is None or c.data is not None else begin + known
    if stage == "cost_model":
        return start
    begin = begin + (["cost_model"] if asks_cost_model(config, stage) else [])
    if stage == "reward_model":
        return start + (pairs if config.reward_model is not None and config.reward_model.data is None else [])
    if stage == "direct":
        c = config.direct
        unpaired = c is not None and c.unpaired is not None
        return begin + ([] if unpaired else pairs) + (scorer if asks_own_reward(config, stage) else [])
    watch = config.watch
    trains_second = watch is not None and watch.second_proxy is None and watch.gold is None
    return begin + (scorer if trains_second or asks_own_reward(config, stage) else [])


def changes(there: Identity, now: Identity) -> list[str]:
    """What differs between what a stage was made of and what it would be made of now, a sentence each.

    A file that is not there any more is not a difference: nothing says that it would be another one.
    """
    known = {key: v for key, v in now.settings.items() if key in there.settings or key not in now.defaults}
    found = setting_changes(there.settings, known)
    for key in dict.fromkeys([*there.read, *now.read]):
        old, new = there.read.get(key, []), now.read.get(key, [])
        if any(file["sha256"] is None for file in new):
            continue
        if [file["sha256"] for file in old] != [file["sha256"] for file in new]:
            found.append(f"{key}: {_changed_files(old, new)}")
    for parent in dict.fromkeys([*there.built_on, *now.built_on]):
        if there.built_on.get(parent) != now.built_on.get(parent):
            was = "not used there" if parent not in there.built_on else "not used now"
            both = parent in there.built_on and parent in now.built_on
            found.append(f"{parent}: {'another one there than now' if both else was}")
    return found


def missing(identity: Identity) -> list[str]:
    """`key: name` of each file that a stage would read and that is not there."""
    return [f"{key}: {f['name']}" for key, files in identity.read.items() for f in files if f["sha256"] is None]


def growth(config: PipelineConfig, stage: str, folder: Path, there: Identity, now: Identity) -> str | None:
    """Why a stage cannot go on to more steps; "" where it can; None if more steps are not all that is asked for."""
    key = GROWING.get(stage)
    before, after = (identity.settings.get(key) for identity in (there, now)) if key else (None, None)
    if key is None or not isinstance(before, int) or not isinstance(after, int) or before == after:
        return None
    if changes(Identity({**there.settings, key: after}, there.read, there.built_on), now):
        return None
    if after < before:
        return f"{key} may grow and not shrink"
    optim: AdamConfig = getattr(config, stage).optim
    kept = [file for name in ("end", "checkpoints") if (file := folder / name / "latest.json").exists()]
    if not kept:
        return "its last checkpoint was not kept, so it cannot go on"
    done = int(read_object(kept[0]).number("step"))
    if any(adam_at(optim, step, before) != adam_at(optim, step, after) for step in range(done)):
        return (
            f"the learning rates of its {done} steps follow {key} ({stage}.optim: schedule {optim.schedule}, "
            f"warmup_fraction {optim.warmup_fraction:g}); only a constant rate without warm-up can go on"
        )
    return ""


def recorded_changes(config: PipelineConfig, stage: str, run: Path, now: Identity) -> list[str]:
    """What `changes` gives, for a stage that says nothing of itself: compares settings with the run's config.json."""
    there = flat_settings(read_object_if_there(run / "config.json"))
    section = flat_settings(getattr(config, stage).model_dump(mode="json"), stage)
    wanted = now.settings | {key: value for key, value in section.items() if key.endswith(".path")}
    shared = [key for key in there if key in wanted]
    return setting_changes({key: there[key] for key in shared}, {key: wanted[key] for key in shared})


def _without_places(data: DataConfig) -> list[list[Any]]:
    """The sources with their weights; one that is a file, which counts by its content, without its path."""
    return [["" if is_local_file(source.path) else source.path, source.weight] for source in data.sources]


def _at_default(config: PipelineConfig, stage: str) -> frozenset[str]:
    """Keys of settings whose value is their default."""
    own = {"model": config.model, "engine": config.engine, "rollout": config.rollout, stage: getattr(config, stage)}
    return frozenset(
        f"{path}.{name}"
        for key, section in own.items()
        for path, part in sections(section, key)
        for name, known in type(part).model_fields.items()
        if getattr(part, name) == known.get_default(call_default_factory=True)
    )


def _changed_files(old: Files, new: Files) -> str:
    before = {file["name"]: file["sha256"] for file in old}
    names = [str(file["name"]) for file in new if before.get(file["name"]) != file["sha256"]]
    names += [str(name) for name in before if name not in {file["name"] for file in new}]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{shown or 'the order of its files'} has changed since it was read"


def _filters(config: PipelineConfig, stage: str) -> dict[str, Any]:
    """What a method's rollouts are filtered by; a word list counts by its content, and a guard where it is asked."""
    c = config.safety
    if c is None or stage not in METHODS or not c.filters:
        return {}
    chosen = [each.model_dump(mode="json", exclude={"path"}) for each in c.filters]
    guard = c.guard.model_dump(mode="json") if c.guard and any(each.name == "guard" for each in c.filters) else {}
    return {"safety.filters": chosen} | (flat_settings(guard, "safety.guard") if guard else {})


def _mixes_sft(config: PipelineConfig, stage: str) -> bool:
    return stage == "ppo" and config.ppo is not None and config.ppo.ptx_coef > 0 and config.sft is not None


def asks_cost_model(config: PipelineConfig, stage: str) -> bool:
    """Whether a method is rewarded by the run's cost model, or has a limit on its cost."""
    method: Any = getattr(config, stage)
    method = getattr(method, "online", None) if stage == "direct" else method
    constraint = getattr(method, "constraint", None)
    limits = constraint is not None and constraint.source.model == OWN_COST
    return limits or any(part.model == OWN_COST for part in getattr(method, "reward", ()))


def asks_own_reward(config: PipelineConfig, stage: str) -> bool:
    """Whether a method is rewarded by the run's reward model, takes its critic from it, or limits its score."""
    method: Any = getattr(config, stage)
    if stage == "direct":
        method = None if method is None else method.online
    if method is None:
        return False
    critic = stage == "ppo" and method.critic.init == "reward"
    constraint = getattr(method, "constraint", None)
    critic = critic or (constraint is not None and constraint.source.model == RUNS_OWN)
    own = not method.reward and getattr(method, "environment", None) is None
    return critic or own or any(part.model == RUNS_OWN for part in method.reward)
