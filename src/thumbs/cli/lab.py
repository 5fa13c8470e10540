"""`thumbs lab`: experiments in which the truth is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from thumbs.lab.overopt import Arm, Found

app = typer.Typer(no_args_is_help=True)

Seeds = Annotated[int, typer.Option(min=1, help="How many worlds, each with models and judges of its own.")]
Clean = Annotated[
    int, typer.Option(min=0, help="Runs in these worlds in which there is nothing to find, to count false alarms.")
]
KlAfter = Annotated[
    float | None, typer.Option(help="Also an arm that goes on after its rollback with this price, score units per nat.")
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
def overopt(seeds: Seeds = 5, clean: Clean = 0, kl_after: KlAfter = None, out: Out = Path("runs/lab")) -> None:
    """Over-optimise a reward model on purpose, and see what brakes it and what a watch delivers.

    Each seed trains a byte model and two reward models on 300 noisy pairs each, draws best-of-n, and runs PPO without
    and with a price for KL, paid by both reward models, and with `act: rollback`. Says what of the required results is
    met; ends with status 1 if one is not.

    \b
    Example:
      thumbs lab overopt --seeds 5
      thumbs lab overopt --seeds 5 --clean 20 --kl-after 0.2
    """
    from thumbs.lab.figures import write_page
    from thumbs.lab.overopt import Found, arms_of, run_seeds
    from thumbs.lab.verdicts import requirements, write_findings

    arms = arms_of(kl_after)
    found: list[Found] = []
    alarms: list[list[str]] = []
    for one in run_seeds(out, seeds, clean, arms):
        if isinstance(one, Found):
            found.append(one)
            for line in seed_lines(one, arms):
                typer.echo(line)
        else:
            alarms.append(one)
            typer.echo(f"clean run {len(alarms)} of {clean}: {', '.join(one) or 'no alarm'}")
    path, required = write_findings(out, found, alarms), requirements(found, alarms)
    page = write_page(out, found, required, arms)
    typer.echo("\n".join(["", *map(str, required), f"numbers: {path}", f"figure: {page}"]))
    if any(requirement.met is False for requirement in required):
        raise typer.Exit(1)


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


def seed_lines(found: Found, arms: Mapping[str, Arm]) -> Iterator[str]:
    """What one seed gave, for a terminal: an arm a line."""
    first, second = found.accuracies
    yield f"seed {found.seed}: accuracy of the proxies {first:.2f} and {second:.2f}; {sum(found.spent.values()):.0f} s"
    yield f"  {'gold':<34} {'start':>6} {'peak':>6} {'end':>6}  alarm  back to  delivered  of the gain"
    for name, arm in arms.items():
        ended = found.arms[name]
        alarm = next((str(step) for step, sign in ended.alarms if sign == "value"), "–")
        back = str(ended.best) if arm.watch else "–"
        yield (
            f"  {arm.title:<34} {ended.gold[0]:>6.2f} {max(ended.gold):>6.2f} {ended.gold[-1]:>6.2f} {alarm:>6} "
            f"{back:>8} {ended.delivered:>10.2f} {found.kept(name):>12.0%}"
        )
    best = found.best_of_n[-1]
    yield f"  best of {best['n']:.0f} by the proxy, at most {best['kl']:.1f} nats {best['gold']:>40.2f}"
