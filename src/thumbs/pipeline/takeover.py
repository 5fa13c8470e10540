"""`--from`: the finished stages of another run, where a config makes them the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thumbs.config.pipeline import PipelineConfig
from thumbs.errors import RunError
from thumbs.pipeline.standing import places, standing_of
from thumbs.tracking.files import writing
from thumbs.tracking.run_folder import StageFolder


@dataclass(frozen=True)
class Decision:
    """Whether a stage is taken, and in words why or why not."""

    place: str
    taken: bool
    words: str


def decisions(config: PipelineConfig, run: Path, source: Path) -> list[Decision]:
    """What `take_over` would take from the run `source` into the run folder `run`; nothing is written."""
    found: list[Decision] = []
    digests: dict[str, str] = {}
    for stage, iteration in places(config):
        here = standing_of(config, run, stage, iteration, digests)
        if here.begun:
            found.append(Decision(here.place, False, f"has begun here, so it is not taken from {source}"))
            digests[here.place] = here.digest
            continue
        there = standing_of(config, source, stage, iteration, digests)
        reason = _why_not(source / there.place, there.problems, done=there.done, known=there.there is not None)
        if there.again:
            reason = "its models are others now"
        words = f"not taken from {source}: {reason}" if reason else f"taken from {source}"
        words += ", and goes on" if there.grows and not reason else ""
        found.append(Decision(there.place, not reason, words))
        digests[here.place] = there.digest if not reason else here.digest
    return found


def take_over(config: PipelineConfig, run: Path, source: Path, say: Callable[[str], None]) -> None:
    """Takes the stages of the run `source` that the config would make the same into the run folder `run`.

    Says of each stage whether it was taken, and if not, why not. A stage that has begun in `run` is left as it is.
    """
    for decision in decisions(config, run, source):
        if decision.taken:
            copy_stage(source / decision.place, run / decision.place)
        say(f"{decision.place}: {decision.words}")


def _why_not(folder: Path, problems: tuple[str, ...], *, done: bool, known: bool) -> str:
    if not StageFolder(folder).has_begun():
        return "it is not there"
    if not known:
        return "it does not say what it was made of (an older version of thumbs made it)"
    if problems:
        return "; ".join(problems)
    return "" if done else "it is not finished there"


def copy_stage(source: Path, target: Path) -> None:
    """A copy of a stage's folder, whole or not there; weights, which nothing changes in place, are linked if possible.

    Raises RunError if the disk is full or something cannot be read.
    """
    scratch = target.with_name(f".{target.name}.new")
    with writing(target):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copytree(source, scratch, copy_function=_link_or_copy)
            shutil.rmtree(target, ignore_errors=True)
            scratch.rename(target)
        except shutil.Error as error:
            raise RunError(
                f"{source} could not be copied to {target}: {error}; check the disk and the rights"
            ) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> object:
    if source.endswith(".safetensors"):
        try:
            return os.link(source, target)
        except OSError:  # another file system, or one without links
            pass
    return shutil.copy2(source, target)
