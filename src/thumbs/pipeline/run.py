"""The whole of RLHF in order: SFT → preferences → reward model → PPO and other methods → evaluation → summary.

A stage whose done.json is there is skipped, one that was interrupted goes on, so the same command finishes any run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thumbs.config.pipeline import LOOP, METHODS, STAGES, PipelineConfig, place
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine.local import LocalEngine
from thumbs.errors import ConfigError, RunError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.artifacts import open_run
from thumbs.pipeline.stages import Pipeline, say
from thumbs.pipeline.summary import peak_rss_bytes, summarise
from thumbs.pipeline.workload import check_splits, read_inputs
from thumbs.stages.context import Context, Resume
from thumbs.stages.people import People
from thumbs.stages.rollouts import check_rounds
from thumbs.tracking.files import read_json, write_json
from thumbs.tracking.run_folder import RunFolder


def run_pipeline(
    config: PipelineConfig, *, until: str | None = None, fresh: bool = False, people: People | None = None
) -> Path:
    """Runs the stages of `config` (up to and including `until`) and returns the run folder.

    people: who judges the pairs where the config has `preferences.people`.
    """
    check_iterations(config)
    check_active_choice(config)
    for method in (config.ppo, config.group):
        if method is not None:
            check_rounds(method)  # before SFT has run for an hour, and before --fresh deletes anything
    path = Path(config.run)
    wanted = [name for name in STAGES[: STAGES.index(until) + 1 if until else None] if getattr(config, name)]
    if people is None and "preferences" in wanted:
        check_nobody_is_asked(config, path, fresh=fresh)
    tokenizer = open_tokenizer(config.model)
    check_data(config, wanted, tokenizer, fresh=fresh)
    if fresh and path.exists():
        remove_run(path)
    with RunFolder(path).open(config.model_dump(mode="json")) as folder:
        engine = LocalEngine(tokenizer.decode)
        for iteration in range(1, config.iterations + 1):
            pipeline = Pipeline(config, folder, tokenizer, engine, iteration, people)
            last = iteration == config.iterations
            for name in wanted:
                if name in LOOP or (last if name == "evaluation" else iteration == 1):
                    run_stage(pipeline, name)
        write_json(path / "summary.json", summarise(path, peak_rss_bytes()))
    return path


def check_data(config: PipelineConfig, wanted: Sequence[str], tokenizer: Tokenizer, *, fresh: bool) -> None:
    """Reads the data of the stages that are still to run; raises DataError for what would stop one of them later."""
    last = {name: place(name, config.iterations if name in LOOP else 1) for name in STAGES}
    done = [name for name in STAGES if not fresh and (Path(config.run) / last[name] / "done.json").exists()]
    left = config.model_copy(update={name: None for name in STAGES if name not in wanted or name in done})
    check_splits(left, read_inputs(left, tokenizer))


def check_iterations(config: PipelineConfig) -> None:
    """Raises ConfigError where a second iteration would have no policy to start from, or nothing new to learn."""
    methods = [method for method in METHODS if getattr(config, method) is not None]
    if config.iterations > 1 and len(methods) != 1:
        found = ", ".join(methods) or "none"
        raise ConfigError(f"iterations={config.iterations} needs exactly one method, whose policy goes on; got {found}")
    if config.iterations > 1 and config.preferences is not None and config.preferences.data is not None:
        raise ConfigError(
            f"iterations={config.iterations} with preferences.data: a file has nothing to say of the new policy; give "
            "`preferences.prompts`, so that pairs are sampled from it"
        )


def check_active_choice(config: PipelineConfig) -> None:
    """Raises ConfigError where pairs are to be chosen by a reward model that the run does not have."""
    people = None if config.preferences is None else config.preferences.people
    if people is None or people.active is None or people.reward_model is not None:
        return
    members = 0 if config.reward is None or config.reward.form == "steps" else config.reward.members
    if not members:
        raise ConfigError(f"preferences.people.active={people.active} goes by a reward model's scores; give `reward`")
    if people.active == "disagreement" and members < 2:
        raise ConfigError(
            "preferences.people.active=disagreement asks an ensemble; set reward.heads or reward.adapters to 2 or "
            "more, or take active=uncertain"
        )


def check_nobody_is_asked(config: PipelineConfig, run: Path, *, fresh: bool) -> None:
    """Raises ConfigError where people are still to be asked, for a caller that knows nobody who would."""
    asked = config.preferences is not None and config.preferences.people is not None
    places = [run / place("preferences", i) / "done.json" for i in range(1, config.iterations + 1)]
    if asked and (fresh or not all(done.exists() for done in places)):
        raise ConfigError(
            "preferences.people needs somebody who asks them: `thumbs run` serves the page itself; from Python call "
            "run_pipeline(config, people=thumbs.collect.desk.Desk())"
        )


def remove_run(path: Path) -> None:
    """Deletes a run folder; refuses a folder that no run wrote, such as a mistyped path."""
    if any(path.iterdir()) and not (path / "config.json").exists():
        raise RunError(f"{path} holds no run, so --fresh does not delete it; name another folder with run=PATH")
    shutil.rmtree(path)


def evaluate_run(run: Path) -> dict[str, Any]:
    """Evaluates the models of a run again; returns the new summary."""
    config = open_run(run).config
    if config.evaluation is None:
        raise ConfigError(f"{run} was made without an `evaluation` section; there are no held-out prompts to use")
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    return read_json(run_pipeline(config.model_copy(update={"run": str(run)})) / "summary.json")


def run_stage(pipeline: Pipeline, name: str) -> None:
    """Runs one stage unless it is done; prints and records the time it took."""
    context, label = pipeline.context(name), place(name, pipeline.iteration)
    if context.folder.is_done():
        say(f"{label}: done already")
        return
    work: Callable[[Context], dict[str, Any]] = getattr(pipeline, name)
    with SpentTime(context.folder.path / "spent_s.json") as spent:
        results = work(context)
    context.folder.mark_done({**results, "time_s": spent.total})
    Resume(context, {}).clear()
    say(f"{label}: {spent.total:.0f} s")


class SpentTime:
    """Computing time of a stage over all its interrupted parts, seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.total = float(read_json(path)["s"]) if path.exists() else 0.0

    def __enter__(self) -> SpentTime:
        self._started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.total += time.monotonic() - self._started
        write_json(self.path, {"s": self.total})
