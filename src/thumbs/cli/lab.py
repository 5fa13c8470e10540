"""`thumbs lab`: experiments in which the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

Seeds = Annotated[int, typer.Option(min=1, help="How many worlds, each with models and judges of its own.")]
Clean = Annotated[
    int, typer.Option(min=0, help="Runs in these worlds in which there is nothing to find, to count false alarms.")
]
Out = Annotated[Path, typer.Option(help="Folder of the runs and of overopt.json; what is there is not made again.")]


@app.callback()
def lab() -> None:
    """Experiments on this machine in which the truth is known.

    \b
    Example:
      thumbs lab overopt --seeds 5
    """


@app.command()
def overopt(seeds: Seeds = 5, clean: Clean = 0, out: Out = Path("runs/lab")) -> None:
    """Over-optimise a reward model on purpose, and see what a watch with `act: rollback` delivers.

    Each seed trains a byte model, two reward models on 300 noisy pairs each, and PPO without a price for KL.

    \b
    Example:
      thumbs lab overopt --seeds 5
      thumbs lab overopt --seeds 5 --clean 20
    """
    from thumbs.lab.overopt import Found, run_seeds, write_findings

    found: list[Found] = []
    alarms: list[int] = []
    typer.echo("seed  accuracy     gold: start   peak    end   lost   alarm  back to  kept  best-of-32")
    for one in run_seeds(out, seeds, clean):
        if not isinstance(one, Found):
            alarms.append(one)
            continue
        found.append(one)
        (first, second), gold = one.accuracies, one.gold
        alarm = "–" if one.alarm is None else str(one.alarm)
        typer.echo(
            f"{one.seed:>4}  {first:.2f}, {second:.2f}  {gold[0]:>11.2f} {max(gold):>6.2f} {gold[-1]:>6.2f} "
            f"{one.lost:>6.0%} {alarm:>7} {one.best:>8} {one.kept:>5.0%} {one.best_of_n[-1][1]:>11.2f}"
        )
    path = write_findings(out, found, alarms)
    typer.echo(f"gold rose, then fell by half of its gain or more: {sum(one.lost >= 0.5 for one in found)} of {seeds}")
    kept = sum(one.kept >= 0.75 for one in found)
    typer.echo(f"the watched run delivered three quarters of the gain or more: {kept} of {seeds}")
    if clean:
        typer.echo(f"clean runs with an alarm: {sum(count > 0 for count in alarms)} of {clean}")
    typer.echo(f"numbers: {path}")


@app.command()
def constraint(
    seeds: Seeds = 5,
    out: Annotated[Path, typer.Option(help="Folder of the runs; what is there is not made again.")] = Path(
        "runs/lab-constraint"
    ),
) -> None:
    """Train under a limit on cost, where the best policy under it is known in closed form; exit code 1 if it is missed.

    Each seed trains by PPO and by RLOO with score - λ · cost, and by PPO with that divided by 1 + λ for comparison.

    \b
    Example:
      thumbs lab constraint --seeds 5
    """
    from thumbs.lab.constraint import LIMIT, NEAR, SLACK, Constrained, run_seeds, write_findings

    found: list[Constrained] = []
    typer.echo("seed  method  rule         cost: start  unlimited    end    λ (best)       distance to the best policy")
    for one in run_seeds(out, seeds):
        found.append(one)
        typer.echo(
            f"{one.seed:>4}  {one.method:<7} {one.rule:<12} {one.start_cost:>10.3f} {one.free_cost:>10.3f} "
            f"{one.cost:>6.4f} {one.multiplier:>6.2f} ({one.best_multiplier:.2f}) {one.distance:>14.3f}  "
            f"{'met' if one.met else 'not met'}"
        )
    asked = [one for one in found if one.rule == "lagrangian"]
    for method in ("ppo", "group"):
        met = sum(one.met for one in asked if one.method == method)
        typer.echo(
            f"{method}.constraint: cost at most {SLACK * LIMIT:.3f} and distance at most {NEAR:g}: {met} of {seeds} "
            f"({'met' if met == seeds else 'not met'})"
        )
    divided = [one.met for one in found if one.rule == "safe_rlhf"]
    typer.echo(f"divided by 1 + λ, of which nothing is asked: {sum(divided)} of {len(divided)}")
    typer.echo(f"numbers: {write_findings(out, found)}")
    if not all(one.met for one in asked):
        raise typer.Exit(1)
