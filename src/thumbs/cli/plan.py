"""`thumbs plan`: what a run would take, before it runs."""

from __future__ import annotations

import typer

from thumbs import api
from thumbs.cli.run import ConfigFile, Overrides


def plan(config: ConfigFile, overrides: Overrides = None) -> None:
    """Say what a run would take, before it runs.

    Prints parameters, tokens per step, memory and time for this machine, and warns of what would go wrong.

    \b
    Example:
      thumbs plan config.yaml ppo.batch_size=64
    """
    forecast = api.plan(config, overrides or [])
    typer.echo(forecast.text())
    for warning in forecast.warnings:
        typer.echo(f"warning: {warning}", err=True)
