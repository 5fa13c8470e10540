"""`thumbs run`, and `thumbs sft`, `thumbs reward-model`, `thumbs ppo` …: a run that ends after that stage."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from thumbs import api
from thumbs.errors import ConfigError, needs

if TYPE_CHECKING:
    from thumbs.config.pipeline import PipelineConfig
    from thumbs.stages.people import LabelSource

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file with the settings of the run.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the file.", show_default=False),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of going on where the run stopped.")]
From = Annotated[
    Path | None,
    typer.Option("--from", metavar="RUN", help="Take finished stages of this run that the config makes the same."),
]


def run(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run every stage of a config, evaluate, report.

    Stages that the config leaves out are skipped.
    A run that was stopped, by Ctrl-C or worse, goes on where it was when the same command is given again.

    \b
    Example:
      thumbs run config.yaml
      thumbs run config.yaml ppo.kl.coef=0.05 run=runs/softer --from runs/mine
    """
    _run_until(None, config, overrides, fresh, source)


def sft(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to supervised fine-tuning.

    \b
    Example:
      thumbs sft config.yaml sft.epochs=3
    """
    _run_until("sft", config, overrides, fresh, source)


def reward_model(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to the reward model.

    \b
    Example:
      thumbs reward-model config.yaml reward_model.freeze_backbone=true
    """
    _run_until("reward_model", config, overrides, fresh, source)


def ppo(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to reinforcement learning with PPO.

    \b
    Example:
      thumbs ppo config.yaml ppo.steps=20 seed=1
    """
    _run_until("ppo", config, overrides, fresh, source)


def direct(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to training on pairs directly (DPO and its family).

    \b
    Example:
      thumbs direct config.yaml method=simpo beta=2
    """
    _run_until("direct", config, overrides, fresh, source)


def group(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to reinforcement learning from groups of replies (GRPO and its family).

    \b
    Example:
      thumbs group config.yaml method=rloo group_size=16
    """
    _run_until("group", config, overrides, fresh, source)


def rejection(config: ConfigFile, overrides: Overrides = None, fresh: Fresh = False, source: From = None) -> None:
    """Run up to fine-tuning on the policy's own best replies (RAFT).

    \b
    Example:
      thumbs rejection config.yaml rejection.replies_per_prompt=16
    """
    _run_until("rejection", config, overrides, fresh, source)


def in_section(stage: str | None, overrides: list[str]) -> list[str]:
    """The overrides, `beta=2` of the command of a stage as that stage's: a key that is none of the whole file's and one
    of the section's.
    """
    if stage is None:
        return overrides
    from thumbs.config.base import known_keys
    from thumbs.config.pipeline import PipelineConfig

    sections = PipelineConfig.model_fields.keys() | PipelineConfig.former_keys.keys()
    own = set(known_keys(PipelineConfig, [stage])) - sections
    return [f"{stage}.{item}" if re.split("[.=]", item.strip())[0] in own else item for item in overrides]


def _people(config: PipelineConfig) -> LabelSource | None:
    """Who asks people, where the config says that people judge."""
    if config.labels is None or config.labels.people is None:
        return None
    with needs("collect", "asking people"):
        from thumbs.collect.desk import Desk, open_page

    return Desk(tell=typer.echo, show=open_page)


def _run_until(stage: str | None, path: Path, overrides: list[str] | None, fresh: bool, source: Path | None) -> None:
    config = api.load_config(path, in_section(stage, overrides or []))
    if stage is not None and getattr(config, stage) is None:
        raise ConfigError(f"{path} has no section `{stage}`; add one, or use `thumbs run` for the stages it has")
    done = api.run(config, until=stage, fresh=fresh, people=_people(config), source=source)
    typer.echo(f"run folder: {done.path}")
    typer.echo(f"report:     {done.path / 'report.html'}")
