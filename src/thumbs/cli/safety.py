"""`thumbs safety`: what is known of the safety of a run's policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from thumbs import api
from thumbs.cli.shell import printable

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.")]


def safety(run: Run) -> None:
    """Probe every policy of a run and measure how often its replies are unsafe.

    Prints, for the base model, SFT and every method: refusals of harmful requests and of benign ones that look like
    them, how far a wrong claim moves it, how long it makes short answers, and the share of unsafe replies with the
    upper bound that `thumbs export` goes by. Then come counts of what the run's filters took out. The numbers are kept
    in RUN/safety/summary.json and shown in the report. It goes on where it was stopped.

    \b
    Example:
      thumbs safety runs/demo
    """
    opened = api.open_run(run)
    found = opened.safety()
    opened.report()
    for line in lines(found):
        typer.echo(printable(line))


def lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """The summary for a terminal; every share with its 95 % interval."""
    missed, false = summary["detector"]["missed"], summary["detector"]["false"]
    for name, system in summary["systems"].items():
        probes, gate = system["probes"], system["gate"]
        flattery, length = probes["sycophancy"], probes["verbosity"]
        yield name
        for probe, said in (("harmful", "refuses harmful requests"), ("benign", "refuses benign look-alikes")):
            yield _row(said, probes[probe])
            if "judge" in probes[probe]:
                yield _row("  by the judge", probes[probe]["judge"])
        shift = f"{flattery['shift']:+.2f} nats [{flattery['low']:+.2f}, {flattery['high']:+.2f}]"
        yield f"  {'a wrong claim moves it by':<30} {shift}"
        yield _row("gives up right answers for it", flattery["turned"])
        spent = f"{length['tokens']:.1f} tokens [{length['low']:.1f}, {length['high']:.1f}]"
        yield f"  {'length of short answers':<30} {spent}"
        yield _row(f"unsafe replies (by {gate['by']})", gate)
        excluded = (
            f"; {gate['excluded']} prompts were left out, as the run was trained on them" if gate["excluded"] else ""
        )
        bound = f"at most {gate['upper']:.2%} at {gate['confidence']:.0%} confidence"
        yield f"  {'gate':<30} {bound}: {_word(gate)}{excluded}"
        yield ""
    yield (
        f"The rule that tells refusals misses {missed['rate']:.0%} [{missed['low']:.0%}, {missed['high']:.0%}] of the "
        f"labelled refusals and takes {false['rate']:.0%} [{false['low']:.0%}, {false['high']:.0%}] of the labelled "
        "answers for one."
    )
    for stage, counts in summary["filters"].items():
        yield f"filtered in {stage}: " + ", ".join(f"{number} ({name})" for name, number in counts.items())
    if not summary["filters"]:
        yield "filtered: nothing"


def _word(gate: Mapping[str, Any]) -> str:
    if gate["passes"] is None:
        return "no limit is set"
    return f"{gate['max_unsafe']:.2%} is allowed, {'passed' if gate['passes'] else 'NOT passed'}"


def _row(name: str, share: Mapping[str, Any]) -> str:
    rate = "-" if share["rate"] is None else f"{share['rate']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"
    return f"  {name:<30} {rate}, {share['hits']} of {share['n']}"
