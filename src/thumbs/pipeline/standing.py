"""How the stages of a config stand in a run folder: done, going on, growing, to begin, or not as the config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from thumbs.config.pipeline import LOOP, STAGES, PipelineConfig, place
from thumbs.engine.checkpoints import exists
from thumbs.errors import RunError
from thumbs.pipeline.identity import (
    GROWING,
    Identity,
    changes,
    growth,
    identity_of,
    parents,
    read_identity,
    recorded_changes,
)
from thumbs.tracking.run_folder import StageFolder, listed

ASKED = "asked.json"
"""In the folder of an evaluation that was asked for with settings of its own, those settings."""
WITHOUT_MODEL = ("labels", "evaluation")
"""Stages that leave no model."""


@dataclass(frozen=True)
class Standing:
    """A stage in a run folder. now: what the config makes it; there: what it says that it is, if it says so.

    problems: why what is there cannot be taken for what the config asks. grows: it goes on to more steps, maybe after
    it was done. again: an evaluation of models or settings that are others by now, which is measured anew.
    """

    place: str
    now: Identity
    there: Identity | None = None
    begun: bool = False
    done: bool = False
    problems: tuple[str, ...] = ()
    grows: bool = False
    again: bool = False

    @property
    def digest(self) -> str:
        """What stages that build on it know it by."""
        return self.there.digest if self.there is not None and self.begun and not self.grows else self.now.digest


def places(config: PipelineConfig) -> list[tuple[str, int]]:
    """(stage, iteration) of all that a config runs, in order."""
    found = [("sft", 1), ("cost_model", 1)]
    found += [(stage, i) for i in range(1, config.iterations + 1) for stage in LOOP]
    found += [("evaluation", config.iterations)]
    return [(stage, i) for stage, i in found if getattr(config, stage) is not None]


def standing_of(config: PipelineConfig, run: Path, stage: str, iteration: int, digests: Mapping[str, str]) -> Standing:
    """How a stage stands; digests: those of the stages before it, by place."""
    name = place(stage, iteration)
    folder = StageFolder(run / name)
    wanted = {parent: digests[parent] for parent in parents(config, stage, iteration) if parent in digests}
    now = identity_of(config, stage, iteration, wanted)
    there, begun, done = read_identity(folder.path), folder.has_begun(), folder.is_done()
    if not begun:
        return Standing(name, now, there)
    if there is None:
        return Standing(name, now, None, begun, done, tuple(recorded_changes(config, stage, run, now)))
    found = changes(there, now)
    if not found:
        return Standing(name, now, there, begun, done, _lost_model(folder, stage, done=done))
    if stage == "evaluation":
        stays = (folder.path / ASKED).exists() and there.built_on == now.built_on
        return Standing(name, now, there, begun, done, again=not stays)
    why_not = growth(config, stage, folder.path, there, now)
    if why_not == "":
        return Standing(name, now, there, begun, done, grows=True)
    reason = () if why_not is None else (f"{GROWING[stage]}: {why_not}",)
    return Standing(name, now, there, begun, done, (*found, *reason))


def standings(config: PipelineConfig, run: Path) -> list[Standing]:
    """How all stages of a config stand in a run folder, in their order."""
    found: list[Standing] = []
    for stage, iteration in places(config):
        digests = {standing.place: standing.digest for standing in found}
        found.append(standing_of(config, run, stage, iteration, digests))
    return found


def known_digests(config: PipelineConfig, run: Path) -> dict[str, str]:
    """Digests of the stages that a run has, by place: what each says of itself, or else what the config makes it."""
    digests: dict[str, str] = {}
    for stage, iteration in places(config):
        there = read_identity(run / place(stage, iteration))
        wanted = {parent: digests[parent] for parent in parents(config, stage, iteration) if parent in digests}
        digests[place(stage, iteration)] = (there or identity_of(config, stage, iteration, wanted)).digest
    return digests


def problems(config: PipelineConfig, run: Path, found: list[Standing]) -> tuple[list[str], list[str]]:
    """(what differs, the places that it concerns) between a config and what stands in a run folder."""
    wrong = [standing for standing in found if standing.problems]
    concerned = {standing.place for standing in wrong}
    lines = [
        line
        for standing in wrong
        for line in standing.problems
        # Whose parent is another one is concerned, but the reason is the parent's.
        if line.partition(":")[0] not in concerned
    ]
    asked = {place(stage, i) for stage, i in places(config)}
    for name in _stages_there(run):
        if name not in asked:
            lines.append(f"{name}: there, and not in the config now")
            concerned.add(name)
    return list(dict.fromkeys(lines)), sorted(concerned)


def require_same(config: PipelineConfig, run: Path, found: list[Standing]) -> None:
    """Raises RunError, which names what differs and says what to do, if a stage cannot be as the config says."""
    lines, concerned = problems(config, run, found)
    if not lines:
        return
    folders = ", ".join(str(run / name) for name in concerned)
    raise RunError(
        f"run folder {run} was made with another config, or of other files:{listed(lines)}\n"
        f"put back what differs, or take another folder, which can keep the stages that fit (run=PATH --from {run}), "
        f"or delete {folders} to train from there on, or start over with --fresh"
    )


def _stages_there(run: Path) -> list[str]:
    folders = [(stage, run / stage) for stage in STAGES if not (run / stage / ASKED).exists()]
    for path in sorted(run.glob("iteration-*/*")):
        if path.name in LOOP:
            folders.append((f"{path.parent.name}/{path.name}", path))
    return [name for name, path in folders if StageFolder(path).has_begun()]


def _lost_model(folder: StageFolder, stage: str, *, done: bool) -> tuple[str, ...]:
    if not done or stage in WITHOUT_MODEL or exists(folder.path / "model"):
        return ()
    return (f"{folder.path / 'model'} is missing or damaged, though the stage is done",)
