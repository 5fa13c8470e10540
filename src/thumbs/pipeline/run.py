"""The whole of RLHF in order: SFT → preferences → reward model → PPO and other methods → evaluation → summary.

A stage whose done.json is there is skipped, one that was interrupted goes on, so the same command finishes any run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from thumbs.config.base import Frozen
from thumbs.config.engine import EngineConfig
from thumbs.config.pipeline import LOOP, METHODS, STAGES, PipelineConfig, place
from thumbs.data.tokenizers import Tokenizer
from thumbs.engine import open_engine
from thumbs.errors import ConfigError, RunError
from thumbs.models.trunk import open_tokenizer
from thumbs.pipeline.former_runs import bring_up_to_date
from thumbs.pipeline.identity import GROWING
from thumbs.pipeline.inputs import check_splits, read_inputs
from thumbs.pipeline.labels import heldout_share
from thumbs.pipeline.names import check_names, check_sections, require_files
from thumbs.pipeline.overlap import flattering, with_prompts
from thumbs.pipeline.stages import Pipeline, say
from thumbs.pipeline.standing import ASKED, Standing, known_digests, places, require_same, standing_of, standings
from thumbs.pipeline.summary import peak_rss_bytes, summarise
from thumbs.pipeline.takeover import take_over
from thumbs.pipeline.trackers import tracked
from thumbs.stages.context import Context, Resume
from thumbs.stages.people import LabelSource
from thumbs.stages.rollouts import check_rounds
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
    wanted = [name for name in STAGES[: STAGES.index(until) + 1 if until else None] if getattr(config, name)]
    check_iterations(config)
    check_active_choice(config)
    check_watch(config)
    for method in (config.ppo, config.group):
        if method is not None:
            check_rounds(method)  # before SFT has run for an hour, and before --fresh deletes anything
    if people is None and {"labels", "evaluation"} & {*wanted}:
        require_label_source(config, path, fresh=fresh)
    check_sections(config, wanted)
    check_names(config)
    check_source(path, source)
    tokenizer = open_tokenizer(config.model)
    if source is None:
        check_data(config, wanted, tokenizer, fresh=fresh)
    with RunFolder(path).lock() as folder:
        if fresh:
            folder.clear()
        if source is not None:
            with RunFolder(source).lock_to_read():
                take_over(config, path, source, say)
            check_data(config, wanted, tokenizer, fresh=False)
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


def check_data(config: PipelineConfig, wanted: Sequence[str], tokenizer: Tokenizer, *, fresh: bool) -> None:
    """Reads the data of the stages that are still to run; raises DataError for what would stop one of them later."""
    last = {name: place(name, config.iterations if name in LOOP else 1) for name in STAGES}
    done = [name for name in STAGES if not fresh and (Path(config.run) / last[name] / "done.json").exists()]
    left = config.model_copy(update={name: None for name in STAGES if name not in wanted or name in done})
    inputs = with_prompts(left, read_inputs(left, tokenizer), tokenizer)
    check_splits(left, inputs)
    for warning in flattering(left, inputs):
        say(f"evaluation: {warning}")


def check_source(path: Path, source: Path | None) -> None:
    """Raises RunError if `source` is not a run to take stages from, or is the run itself."""
    if source is None:
        return
    if not (source / "config.json").exists():
        raise RunError(
            f"--from {source}: that is not a run folder, since it has no config.json; name one that a run made"
        )
    if path.exists() and path.samefile(source):
        raise RunError(f"--from {source} is the run folder itself; name another folder for this run with run=PATH")


def check_iterations(config: PipelineConfig) -> None:
    """Raises ConfigError if a second iteration would have no policy to start from, or nothing new to learn."""
    methods = [method for method in METHODS if getattr(config, method) is not None]
    if config.iterations > 1 and len(methods) != 1:
        found = ", ".join(methods) or "none"
        raise ConfigError(f"iterations={config.iterations} needs exactly one method, whose policy goes on; got {found}")
    if config.iterations > 1 and config.labels is not None and config.labels.data is not None:
        raise ConfigError(
            f"iterations={config.iterations} with labels.data: a file has nothing to say of the new policy; give "
            "`labels.prompts`, so that pairs are sampled from it"
        )


def check_active_choice(config: PipelineConfig) -> None:
    """Raises ConfigError if pairs are to be chosen by a reward model that the run does not have."""
    people = None if config.labels is None else config.labels.people
    if people is None or people.active is None or people.reward_model is not None:
        return
    members = 0 if config.reward_model is None or config.reward_model.form == "steps" else config.reward_model.members
    if not members:
        raise ConfigError(f"labels.people.active={people.active} goes by a reward model's scores; give `reward_model`")
    if people.active == "disagreement" and members < 2:
        raise ConfigError(
            "labels.people.active=disagreement asks an ensemble; set reward_model.heads or reward_model.adapters to 2 "
            "or more, or take active=uncertain"
        )


def check_watch(config: PipelineConfig) -> None:
    """Raises ConfigError if there is no policy to watch, or no second opinion to be had."""
    if config.watch is None:
        return
    samples = config.direct is not None and config.direct.online is not None
    if not samples and config.ppo is None and config.group is None and config.rejection is None:
        raise ConfigError(
            "watch: no method of this run samples from the policy that it trains; ppo, group, rejection and "
            "direct.online can be watched"
        )
    check_kl_after(config, config.watch.kl_after, config.watch.act)
    if config.watch.gold is not None:
        if config.watch.gold.people is not None:
            raise ConfigError(
                "watch.gold.people: nobody can be asked at each look; name a judge, a reward model, a function or a "
                "rule, or let people judge the evaluation (evaluation.gold)"
            )
        return
    if config.watch.second_proxy is None and config.labels is not None and not heldout_share(config.labels):
        raise ConfigError(
            "watch: without watch.second_proxy a reward model is trained on the held-out pairs, and labels holds none "
            "out; set `holdout` of labels.data or labels.prompts to a third or so, or name a reward model"
        )
    if config.watch.second_proxy is None and (config.reward_model is None or config.reward_model.form != "pairs"):
        raise ConfigError(
            "watch: without watch.second_proxy a reward model is trained on the held-out pairs, so the run needs the "
            "sections `labels` and `reward_model` with a loss of pairs; or name a reward model in watch.second_proxy"
        )


def check_kl_after(config: PipelineConfig, price: float | None, act: str) -> None:
    """Raises ConfigError if there is no rollback after which PPO could go on with a higher price of KL."""
    if price is None:
        return
    if act != "rollback" or config.ppo is None:
        raise ConfigError(
            f"watch.kl_after={price} is the price of KL with which PPO goes on after a rollback; set "
            "watch.act=rollback in a run of PPO, or leave it out"
        )
    if price <= config.ppo.kl.coef:
        raise ConfigError(
            f"watch.kl_after={price} is not above ppo.kl.coef={config.ppo.kl.coef}, with which the policy was lost; "
            "give a higher price"
        )
    if config.rollout.staleness:
        raise ConfigError(
            f"watch.kl_after={price} with rollout.staleness={config.rollout.staleness}: batches on their way are those "
            "of the policy that was given up; set rollout.staleness=0, or leave watch.kl_after out"
        )


def require_label_source(config: PipelineConfig, run: Path, *, fresh: bool) -> None:
    """Raises ConfigError if people still have to label pairs; for a caller who gave no label source."""
    asked = config.labels is not None and config.labels.people is not None
    gold = None if config.evaluation is None else config.evaluation.gold
    if gold is not None and gold.people is not None and (fresh or not (run / "evaluation" / "done.json").exists()):
        raise ConfigError("evaluation.gold.people needs somebody who asks them; `thumbs run` and `thumbs eval` do")
    places = [run / place("labels", i) / "done.json" for i in range(1, config.iterations + 1)]
    if asked and (fresh or not all(done.exists() for done in places)):
        raise ConfigError(
            "labels.people needs somebody who asks them: `thumbs run` serves the page itself; from Python call "
            "thumbs.run(config, people=thumbs.collect.desk.Desk())"
        )


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
