"""`thumbs compare`: methods of several runs on one plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders with an evaluation.")]
At = Annotated[
    float | None,
    typer.Option(min=0.0, help="KL to compare at, nats per sequence; without it the farthest that every method went."),
]
Out = Annotated[Path, typer.Option(help="The page to write.")]


def compare(runs: Runs, out: Out = Path("compare.html"), at: At = None) -> None:
    """Compare the methods of runs at equal KL: gold, proxy, win rate.

    Prints a table and writes a page with both curves. Runs must have been judged alike.

    \b
    Example:
      thumbs compare runs/ppo runs/rloo runs/dpo --out compare.html
    """
    from thumbs.report.compare import build_comparison, common_reach
    from thumbs.report.headline import number, percent

    found = build_comparison(runs, out, at)
    level = common_reach([curve for curve, _ in found]) if at is None else at
    rows = [["method", "KL", "gold", "proxy", "win rate", f"gold at {number(level)} nats", "proxy there"]]
    for curve, there in found:
        last = curve.places[-1]
        win = percent(curve.win_rate[0]) if curve.win_rate else "–"
        numbers = [number(x) for x in (last.kl, last.gold, last.proxy)]
        compared = [number(x) for x in ((there.gold, there.proxy) if there else (None, None))]
        rows.append([curve.name, *numbers, win, *compared])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    typer.echo(f"page: {out}")
