"""`thumbs report`: one HTML file from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs import api

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder; it need not be finished.")]
Live = Annotated[bool, typer.Option("--live", help="Serve a page on this machine that follows the run until it ends.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Where --live listens; 0: any free port.")]


def report(run: Run, *, live: Live = False, port: Port = 0) -> None:
    """Write the report of a run.

    One HTML file that needs no network; prints where it is. With --live it is served while the run goes on, at an
    address with a token that only this machine reaches.

    \b
    Example:
      thumbs report runs/demo
      thumbs report runs/demo --live
    """
    if not live:
        typer.echo(str(api.open_run(run).report()))
        return
    from thumbs.report.live import follow

    typer.echo(str(follow(run, lambda line: typer.echo(line, err=True), port)))
