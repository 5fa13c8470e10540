"""The whole of RLHF in order: SFT → preferences → reward model → PPO and other methods → evaluation → summary.

A stage whose done.json is there is skipped, one that was interrupted goes on, so the same command finishes any run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from thumbs.config.base import Frozen
from thumbs.config.engine import EngineConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.engine import open_engine
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.checks import (
    check_data,
    check_settings,
    check_source,
    done_stages,
    require_label_source,
    wanted_stages,
)
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.pipeline.identity import GROWING
from thumbs.pipeline.names import require_files
from thumbs.pipeline.stages import Pipeline, say
from thumbs.pipeline.standing import ASKED, Standing, known_digests, places, require_same, standing_of, standings
from thumbs.pipeline.summary import peak_rss_bytes, summarise
from thumbs.pipeline.takeover import take_over
from thumbs.pipeline.trackers import tracked
from thumbs.stages.context import Context, Resume
from thumbs.stages.people import LabelSource
from thumbs.tracking.files import read_object, replaced_folder, restore_folder, write_json
from thumbs.tracking.run_folder import RunFolder, StageFolder


def run_pipeline(
    config: PipelineConfig,
    *,
    until: str | None = None,
    fresh: bool = False,
    people: LabelSource | None = None,
    source: Path | None = None,
) -> Path:
    """Runs the stages of `config` (up to and including `until`) and returns the run folder.

    people: who judges the pairs where the config has `labels.people`. source: another run, whose finished stages
    are taken over if this config makes them the same.
    """
    path = Path(config.run)
    bring_up_to_date(path, *([] if source is None else [source]))
    wanted = wanted_stages(config, until)
    check_settings(config, wanted)
    if people is None and {"labels", "evaluation"} & {*wanted}:
        require_label_source(config, path, fresh=fresh)
    check_source(path, source)
    tokenizer = open_tokenizer(config.model)
    if source is None:
        check_data(config, wanted, tokenizer, done=() if fresh else done_stages(config))
    with RunFolder(path).lock() as folder:
        if fresh:
            folder.clear()
        if source is not None:
            with RunFolder(source).lock_to_read():
                take_over(config, path, source, say)
            check_data(config, wanted, tokenizer, done=done_stages(config))
        restore_folder(path / "evaluation")
        found = standings(config, path)
        require_same(config, path, found)
        require_files(standing for standing in found if standing.place.rpartition("/")[2] in wanted)
        folder.record(config.model_dump(mode="json"))
        with tracked(config, path):
            engine = open_engine(logging_to(path, config.engine), tokenizer.decode, config.rollout)
            try:
                for name, iteration in places(config):
                    if name in wanted:
                        run_stage(Pipeline(config, folder, tokenizer, engine, iteration, people), name)
            finally:
                engine.stop()
        write_json(path / "summary.json", summarise(path, peak_rss_bytes()))
    return path


def logging_to(run: Path, engine: EngineConfig) -> EngineConfig:
    """The engine's section; its workers print into the run folder unless it says where."""
    return engine.model_copy(update={"logs": engine.logs or str(run / "logs")})


def run_stage(pipeline: Pipeline, name: str) -> None:
    """Runs one stage unless it is done; prints and records what it is made of and the time it took."""
    config, run = pipeline.config, pipeline.folder.path
    standing = standing_of(config, run, name, pipeline.iteration, known_digests(config, run))
    require_same(config, run, [standing])  # files may have changed since the run began
    require_files([standing])
    context = pipeline.context(name)
    if standing.done and not (standing.grows or standing.again):
        say(f"{standing.place}: done already" + ("" if standing.there else ", before runs recorded what they read"))
        return
    if name == "evaluation":
        measure(pipeline, asked=False)
        return
    make_ready(config, context, standing, name)
    work: Callable[[Context, Frozen], dict[str, Any]] = getattr(pipeline, name)
    with SpentTime(context.folder.path / "spent_s.json") as spent:
        results = work(context, getattr(config, name))
    context.folder.mark_done({**results, "time_s": spent.total})
    Resume(context, {}).close(keep=GROWING.get(name) in standing.now.settings)
    say(f"{standing.place}: {spent.total:.0f} s")


def measure(pipeline: Pipeline, *, asked: bool) -> None:
    """Evaluates into a new folder, which takes the place of the earlier evaluation when it is whole.

    asked: with settings that were given for this once, so that the run's config does not speak against them.
    """
    config, run = pipeline.config, pipeline.folder.path
    standing = standing_of(config, run, "evaluation", pipeline.iteration, known_digests(config, run))
    require_files([replace(standing, done=False)])
    assert config.evaluation is not None  # noqa: S101
    if standing.again:
        what = "models" if standing.there is None or standing.there.built_on != standing.now.built_on else "settings"
        say(f"{standing.place}: measured again, since its {what} are others now")
    with replaced_folder(run / standing.place) as scratch:
        context = replace(pipeline.context("evaluation"), folder=StageFolder(scratch))
        with SpentTime(scratch / "spent_s.json") as spent:
            results = pipeline.evaluation(context, config.evaluation)
        standing.now.write(scratch)
        if asked:
            write_json(scratch / ASKED, config.evaluation.model_dump(mode="json"))
        context.folder.mark_done({**results, "time_s": spent.total})
    say(f"{standing.place}: {spent.total:.0f} s")


def make_ready(config: PipelineConfig, context: Context, standing: Standing, name: str) -> None:
    """Prepares the folder of a stage that is about to run, and says in it what the stage is made of."""
    folder = context.folder
    if not standing.begun and standing.there != standing.now:
        folder.clear()  # what settings of before left behind, such as policies kept at a KL
    elif standing.grows and standing.there is not None:
        steps = standing.there.settings[GROWING[name]]
        say(f"{standing.place}: goes on from {steps} to {standing.now.settings[GROWING[name]]} steps")
        Resume(context, {}).reopen()
        every = getattr(getattr(config, name), "sample_every", None)
        if standing.done and every and steps % every:
            folder.samples.drop(steps)  # shown because it was the last step, which it is no longer
    standing.now.write(folder.path)


class SpentTime:
    """Computing time of a stage over all its interrupted parts, seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = read_object(path).number("s") if path.exists() else 0.0

    def __enter__(self) -> SpentTime:
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.total += time.monotonic() - self._started
        write_json(self.path, {"s": self.total})
