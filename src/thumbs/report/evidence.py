"""What a run has shown, and what it has not: the two lists that a sceptic reads first."""

from __future__ import annotations

from collections.abc import Iterator

from thumbs.evaluation.results import NO_GOLD
from thumbs.report.headline import in_words, methods_of
from thumbs.report.numbers import number
from thumbs.report.record import RunRecord
from thumbs.report.systems import system_title


def shown(run: RunRecord) -> list[str]:
    """What an interval says, one way or the other."""
    return [*_accuracy(run, known=True), *_comparisons(run, decided=True)]


def not_shown(run: RunRecord) -> list[str]:
    """What no interval says, and what was not looked at."""
    said = [*_accuracy(run, known=False), *_comparisons(run, decided=False)]
    if run.evaluation.get("measure", "gold") != "gold" or not run.evaluation:
        said.append(f"What people would prefer: {NO_GOLD.partition(':')[0]}.")
    for method in methods_of(run):
        alarms = sum(len(run.alarms_by_step(place)) for place in run.places(method))
        title = system_title(run, method)
        if alarms:
            said.append(f"That {title} is free of gaming: alarms were raised at {number(alarms)} steps.")
        elif run.setting("watch") is None:
            said.append(f"That {title} is free of gaming: no watch with a second opinion was kept.")
    said.append(f"How much of this is chance between runs: this is one run, with seed {run.seed}.")
    return said


def _comparisons(run: RunRecord, *, decided: bool) -> Iterator[str]:
    for comparison in run.evaluation.get("comparisons", ()):
        if (comparison["verdict"] in ("better", "worse")) == decided:
            yield f"{in_words(run, comparison)}."


def _accuracy(run: RunRecord, *, known: bool) -> Iterator[str]:
    """Whether the reward model is better than a coin."""
    low, high = (run.summary.get(f"reward.heldout_accuracy_{key}") for key in ("low", "high"))
    if low is None or high is None or (low > 0.5) != known:
        return
    told = f"[{number(low)}, {number(high)}] of the held-out pairs"
    better = "he reward model orders pairs better than a coin"
    yield f"T{better}: {told}." if known else f"That t{better}: {told}."
