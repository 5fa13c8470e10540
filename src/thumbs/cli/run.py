"""`thumbs run`, and `thumbs sft`, `thumbs reward-model`, `thumbs ppo` …: a run that ends after that stage."""

from __future__ import annotations

import re
from collections.abc import Callable
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

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything and say what would happen; nothing is trained or written.")
]


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    fresh: Fresh = False,
    source: From = None,
    dry_run: DryRun = False,
) -> None:
    """Run every stage of a config, evaluate, report.

    Stages that the config leaves out are skipped.
    A run that was stopped, by Ctrl-C or worse, goes on where it was when the same command is given again.

    \b
    Example:
      thumbs run config.yaml
      thumbs run config.yaml ppo.kl.coef=0.05 run=runs/softer --from runs/mine
      thumbs run config.yaml --dry-run
    """
    _run_until(None, config, overrides, fresh, source, dry_run)


_STAGES = {
    "sft": ("supervised fine-tuning", "sft config.yaml sft.epochs=3"),
    "cost_model": ("the cost model", "cost-model config.yaml cost_model.epochs=2"),
    "reward_model": ("the reward model", "reward-model config.yaml reward_model.freeze_backbone=true"),
    "direct": ("training on pairs directly (DPO and its family)", "direct config.yaml method=simpo beta=2"),
    "ppo": ("reinforcement learning with PPO", "ppo config.yaml ppo.steps=20 seed=1"),
    "group": (
        "reinforcement learning from groups of replies (GRPO and its family)",
        "group config.yaml method=rloo group_size=16",
    ),
    "rejection": (
        "fine-tuning on the policy's own best replies (RAFT)",
        "rejection config.yaml rejection.replies_per_prompt=16",
    ),
}
"""Stages that a command ends after: what the stage is, and an example."""


def _command_of(stage: str) -> Callable[..., None]:
    """The command that runs a config up to that stage."""

    def command(
        config: ConfigFile,
        overrides: Overrides = None,
        fresh: Fresh = False,
        source: From = None,
        dry_run: DryRun = False,
    ) -> None:
        _run_until(stage, config, overrides, fresh, source, dry_run)

    what, example = _STAGES[stage]
    command.__doc__ = f"Run up to {what}.\n\n\b\nExample:\n  thumbs {example}"
    return command


COMMANDS = {"run": run} | {stage.replace("_", "-"): _command_of(stage) for stage in _STAGES}
"""`thumbs run` and the commands of stages, by name."""


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
    gold = None if config.evaluation is None else config.evaluation.gold
    if (config.labels is None or config.labels.people is None) and (gold is None or gold.people is None):
        return None
    with needs("collect", "asking people"):
        from thumbs.collect.desk import Desk, open_page

    return Desk(tell=typer.echo, show=open_page)


def _run_until(
    stage: str | None, path: Path, overrides: list[str] | None, fresh: bool, source: Path | None, dry_run: bool
) -> None:
    config = api.load_config(path, in_section(stage, overrides or []))
    if stage is not None and getattr(config, stage) is None:
        raise ConfigError(f"{path} has no section `{stage}`; add one, or use `thumbs run` for the stages it has")
    if dry_run:
        _rehearse(config, stage, fresh, source)
        return
    done = api.run(config, until=stage, fresh=fresh, people=_people(config), source=source)
    typer.echo(f"run folder: {done.path}")
    typer.echo(f"report:     {done.path / 'report.html'}")


def _rehearse(config: PipelineConfig, stage: str | None, fresh: bool, source: Path | None) -> None:
    """Prints what the run would do, and its warnings."""
    from thumbs.pipeline.rehearsal import rehearse

    found = rehearse(config, until=stage, fresh=fresh, source=source)
    typer.echo(found.text())
    for warning in found.forecast.warnings if found.forecast else ():
        typer.echo(f"warning: {warning}", err=True)
