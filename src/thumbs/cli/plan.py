"""`thumbs plan`: what a run would take, before it runs."""

from __future__ import annotations

import typer

from thumbs.cli.run import ConfigFile, Overrides
from thumbs.config.base import load_config
from thumbs.config.pipeline import PipelineConfig


def plan(config: ConfigFile, overrides: Overrides = None) -> None:
    """Say what a run would take, before it runs.

    Prints parameters, tokens a step, memory and time for this machine, and warns of what would go wrong.

    \b
    Example:
      thumbs plan config.yaml ppo.batch_size=64
    """
    settings = load_config(PipelineConfig, config, overrides or [])

    from thumbs.pipeline.plan import plan as plan_run

    forecast = plan_run(settings)
    typer.echo(forecast.text())
    for warning in forecast.warnings:
        typer.echo(f"warning: {warning}", err=True)
