"""Every name that a config gives, looked up before anything runs: functions, judges, models, files, sections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from thumbs.config.evaluation import GoldConfig
from thumbs.config.labels import LabelsConfig
from thumbs.config.named import load_callable
from thumbs.config.pipeline import METHODS, STAGES, PipelineConfig
from thumbs.config.reward_parts import RewardPart
from thumbs.errors import CheckpointError, ConfigError, DataError, ModelError
from thumbs.evaluation.gold import read_rubric
from thumbs.evaluation.judges import gold_judge
from thumbs.models.catalog import is_builtin_byte, resolve
from thumbs.pipeline.identity import asks_cost_model, asks_own_reward
from thumbs.pipeline.reads import Name, names, sections
from thumbs.pipeline.standing import Standing
from thumbs.rewards.build import check_reward_model
from thumbs.rewards.signatures import batch_arguments
from thumbs.rewards.verifiers import verifier
from thumbs.safety.filters import open_filters


def check_names(config: PipelineConfig, stages: Sequence[str] = STAGES) -> None:
    """Raises ConfigError, which names the key, if a name in these stages is none.

    Imports the modules of the functions that are named, and fetches models that are not on this machine yet.
    """
    _look_up("model.name", "model", config.model.name)
    if config.safety is not None:
        _ = open_filters(config.safety, ask=list)
        check_unsafe(config.safety.unsafe, config)
        if config.safety.guard is not None and config.safety.guard.endpoint is None:
            _look_up("safety.guard.model", "model", config.safety.guard.model)
    watched = ["watch"] if any(stage in METHODS for stage in stages) else []
    for stage in [*stages, *watched]:
        section = getattr(config, stage)
        for key, part in sections(section, stage) if section is not None else ():
            if isinstance(part, RewardPart) and (misfit := part.misfit()):
                raise ConfigError(f"{key}: {misfit}")
            if isinstance(part, RewardPart | GoldConfig) and part.verifier is not None:
                verifier(part.verifier, part.pattern)
            if isinstance(part, GoldConfig):
                _check_judge(key, part)
            for field, kind, name in names(part):
                if kind != "judge" or not isinstance(part, LabelsConfig) or part.simulated:
                    _look_up(f"{key}.{field}", kind, name)


def check_unsafe(name: str | None, config: PipelineConfig) -> None:
    """Raises ConfigError unless `safety.unsafe` names somebody who can judge this run's replies."""
    if name == "cost" and config.cost_model is None:
        raise ConfigError("safety.unsafe=cost asks the run's cost model; give it the section `cost_model`")
    if name is not None and ":" in name:
        _look_up("safety.unsafe", "function", name)
    elif name not in (None, "guard", "cost", "refusals"):
        raise ConfigError(
            f"safety.unsafe: got {name!r}; allowed are guard, cost, refusals, and module:name of your own"
        )


def _check_judge(key: str, gold: GoldConfig) -> None:
    if gold.rubric is not None:
        read_rubric(gold.rubric)
    if gold.judge is not None and gold.endpoint is None:
        _look_up(f"{key}.judge", "model", gold.judge)


def _look_up(key: str, kind: Name, name: str) -> None:
    try:
        _CHECKS[kind](name)
    except (ConfigError, ModelError, CheckpointError) as error:
        raise ConfigError(f"{key}: {error}") from None


def check_sections(config: PipelineConfig, stages: Sequence[str] = STAGES) -> None:
    """Raises ConfigError if one of these stages lacks another section, or has settings that do not fit."""
    for stage, text in lacking(config):
        if stage in stages:
            raise ConfigError(text)


def lacking(config: PipelineConfig) -> Iterator[tuple[str, str]]:
    """(stage, what is missing) for each stage that needs another section, or settings that fit each other."""
    c = config
    if c.reward_model is not None and c.reward_model.data is None and c.labels is None:
        yield "reward_model", _needs("reward_model", "labels")
    for stage in METHODS:
        if getattr(c, stage) is not None and asks_own_reward(c, stage) and c.reward_model is None:
            yield stage, _needs(stage, "reward_model")
        if getattr(c, stage) is not None and asks_cost_model(c, stage) and c.cost_model is None:
            yield stage, _needs(stage, "cost_model")
    pairs = c.direct is not None and c.direct.online is None and c.direct.unpaired is None
    if pairs and c.labels is None:
        yield "direct", _needs("direct", "labels")
    if c.labels is not None and c.labels.data is None and c.labels.prompts is None:
        yield "labels", "labels: give `data` (a file of pairs) or `prompts` (to sample pairs for)"
    if c.ppo is not None and c.ppo.ptx_coef and c.sft is None:
        yield "ppo", "ppo.ptx_coef mixes in the SFT data, so the config needs section `sft`"
    if c.ppo is not None and c.ppo.critic.init == "reward" and c.reward_model is not None and c.reward_model.heads > 1:
        yield (
            "ppo",
            "ppo.critic.init=reward needs a reward model with one head; set reward_model.heads=1, or another init",
        )
    if c.rejection is not None and (misfit := c.rejection.misfit()):
        yield "rejection", misfit


def require_files(standings: Iterable[Standing]) -> None:
    """Raises DataError for a file that a stage still has to read and that is not there."""
    for standing in standings:
        for key, files in standing.now.read.items() if not standing.done or standing.again or standing.grows else ():
            for file in files:
                if file["sha256"] is None:
                    raise DataError(f"{key}: {file['name']}: no such file; give a path, hub:NAME or builtin:NAME")


def _needs(stage: str, needed: str) -> str:
    return f"section `{stage}` needs section `{needed}`"


def _check_model(name: str) -> None:
    if not is_builtin_byte(name):
        resolve(name)


_CHECKS: Mapping[Name, Callable[[str], object]] = {
    "function": load_callable,
    "reward function": lambda name: batch_arguments(load_callable(name), name),
    "judge": gold_judge,
    "model": _check_model,
    "reward model": check_reward_model,
}
"""What looks a name up, by what it is the name of."""
