"""`thumbs compare`: methods of several runs on one plane."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thumbs.report.compare import Place

Runs = Annotated[list[Path], typer.Argument(metavar="RUN…", help="Run folders with an evaluation.")]
At = Annotated[
    float | None,
    typer.Option(min=0.0, help="KL to compare at, nats per sequence; without it the farthest that every method went."),
]
Out = Annotated[Path, typer.Option(help="The page to write.")]


def _gold(place: Place) -> list[str]:
    from thumbs.report.numbers import number

    return [number(place.gold), f"{number(place.low)} to {number(place.high)}"]


def compare(runs: Runs, out: Out = Path("compare.html"), at: At = None) -> None:
    """Compare the methods of runs at equal KL: gold, proxy, win rate.

    Prints a table of policies that were measured and writes a page with both curves. Runs must have been judged alike.

    \b
    Example:
      thumbs compare runs/ppo runs/rloo runs/dpo --out compare.html
    """
    from thumbs.report.compare import build_comparison, common_reach, paired
    from thumbs.report.numbers import number, percent, signed

    found = build_comparison(runs, out, at)
    level = common_reach([curve for curve, _ in found]) if at is None else at
    rows = [["method", "KL", "gold", "95 %", "proxy", "win rate", f"within {number(level)} nats", "KL", "gold", "95 %"]]
    for curve, there in found:
        win = percent(curve.win_rate[0]) if curve.win_rate else "–"
        last = [number(curve.places[-1].kl), *_gold(curve.places[-1]), number(curve.places[-1].proxy)]
        rows.append([curve.name, *last, win, *((there.name, number(there.kl), *_gold(there)) if there else ["–"] * 4)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]))
    for gap in paired(runs):
        interval = f"[{signed(gap['low'])}, {signed(gap['high'])}]"
        told = f"{signed(gap['difference'])} {interval}: {gap['verdict']}"
        typer.echo(f"{gap['left']} minus {gap['right']}, gold on {gap['n']} prompts: {told}")
    typer.echo(f"page: {out}")
