"""`thumbs eval`: measure a run on its held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]


def evaluate(run: Run) -> None:
    """Measure a run on its held-out prompts.

    Prints the numbers as JSON.

    \b
    Example:
      thumbs eval runs/demo
    """
    from thumbs.pipeline.run import evaluate_run

    typer.echo(json.dumps(evaluate_run(run), indent=2))
