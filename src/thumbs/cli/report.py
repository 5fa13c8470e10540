"""`thumbs report`: one HTML file from a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thumbs import api

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder; it need not be finished.")]


def report(run: Run) -> None:
    """Write the report of a run.

    One HTML file that needs no network; prints where it is.

    \b
    Example:
      thumbs report runs/demo
    """
    typer.echo(str(api.open_run(run).report()))
