"""What is found out before a run begins: settings that do not fit each other, names, sources, data.

`thumbs run`, its rehearsal and `thumbs plan` refuse by these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from thumbs.config.pipeline import LOOP, METHODS, STAGES, PipelineConfig, place
from thumbs.data.tokenizers import Tokenizer
from thumbs.errors import ConfigError, RunError
from thumbs.pipeline.inputs import check_splits, read_inputs
from thumbs.pipeline.labels import heldout_share
from thumbs.pipeline.names import check_names, check_sections
from thumbs.pipeline.overlap import flattering, with_prompts
from thumbs.pipeline.stages import say
from thumbs.stages.rollouts import check_rounds


def wanted_stages(config: PipelineConfig, until: str | None = None) -> list[str]:
    """The stages that the config has, up to and including `until`."""
    return [name for name in STAGES[: STAGES.index(until) + 1 if until else None] if getattr(config, name)]


def check_settings(config: PipelineConfig, wanted: Sequence[str]) -> None:
    """Raises ConfigError for settings of these stages that do not fit each other, and for names that are none."""
    for check in _FITTING:
        check(config)
    for method in (config.ppo, config.group):
        if method is not None:
            check_rounds(method)  # before SFT has run for an hour, and before --fresh deletes anything
    check_sections(config, wanted)
    check_names(config)


def last_place(config: PipelineConfig, stage: str) -> str:
    """Where the last iteration's stage is in the run folder; once it is done, the stage has nothing more to do."""
    return place(stage, config.iterations if stage in LOOP else 1)


def done_stages(config: PipelineConfig) -> list[str]:
    """Stages that have nothing more to do in the config's run folder."""
    return [name for name in STAGES if (Path(config.run) / last_place(config, name) / "done.json").exists()]


def check_data(
    config: PipelineConfig, wanted: Sequence[str], tokenizer: Tokenizer, *, done: Collection[str]
) -> PipelineConfig:
    """Reads the data of the stages that are still to run, and returns the config of those alone.

    Raises DataError for what would stop one of them later.
    """
    left = config.model_copy(update={name: None for name in STAGES if name not in wanted or name in done})
    inputs = with_prompts(left, read_inputs(left, tokenizer), tokenizer)
    check_splits(left, inputs)
    for warning in flattering(left, inputs):
        say(f"evaluation: {warning}")
    return left


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


_FITTING = (check_iterations, check_active_choice, check_watch)


def misfits(config: PipelineConfig) -> list[str]:
    """What `check_settings` would say of sections that do not fit each other, for who wants to hear all of it."""
    found = []
    for check in _FITTING:
        try:
            check(config)
        except ConfigError as error:
            found.append(f"{error}; the run will stop there")
    return found
