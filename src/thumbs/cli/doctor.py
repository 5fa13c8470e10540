"""`thumbs doctor`: what this machine has, what will be used, what is missing."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what this machine has, what thumbs uses of it, and how to get what is missing.

    \b
    Example:
      thumbs doctor
    """
    from thumbs.pipeline.doctor import examine

    for finding in examine():
        typer.echo(f"{'ok' if finding.fine else '--'}  {finding.what:<18} {finding.text}")
        if finding.advice:
            typer.echo(f"{'':24}{finding.advice}")
