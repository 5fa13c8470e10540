"""What a run has shown, and what it has not: the two lists that a sceptic reads first."""

from __future__ import annotations

from collections.abc import Iterator

from thumbs.evaluation.results import NO_GOLD
from thumbs.report.headline import has_gold, in_words, methods_of
from thumbs.report.numbers import number
from thumbs.report.record import RunRecord
from thumbs.report.systems import system_title


def shown(run: RunRecord) -> list[str]:
    """What an interval says, one way or the other."""
    models = [*_accuracy(run, known=True), *_cost_model(run, known=True)]
    return [*models, *_comparisons(run, decided=True), *_gate(run, passed=True)]


def not_shown(run: RunRecord) -> list[str]:
    """What no interval says, and what was not looked at."""
    said = [*_accuracy(run, known=False), *_cost_model(run, known=False), *_comparisons(run, decided=False)]
    said += [f"{warning[:1].upper()}{warning[1:]}." for warning in run.evaluation.get("warnings", ())]
    if not has_gold(run):
        said.append(f"What people would prefer: {NO_GOLD.partition(':')[0]}.")
    for method in methods_of(run):
        alarms = sum(len(run.alarms_by_step(place)) for place in run.places(method))
        title = system_title(run, method)
        if alarms:
            steps = "1 step" if alarms == 1 else f"{number(alarms)} steps"
            said.append(f"That {title} is free of gaming: alarms were raised at {steps}.")
        elif run.setting("watch") is None:
            said.append(f"That {title} is free of gaming: no watch with a second opinion was kept.")
    said += [*_limits(run), *_gate(run, passed=False)]
    if not run.safety:
        said.append("That any policy here is safe: `thumbs safety` was not run.")
    said.append(f"How much of this is chance between runs: this is one run, with seed {run.seed}.")
    return said


def _comparisons(run: RunRecord, *, decided: bool) -> Iterator[str]:
    for comparison in run.evaluation.get("comparisons", ()):
        if (comparison["verdict"] in ("better", "worse")) == decided:
            yield f"{in_words(run, comparison)}."


def _gate(run: RunRecord, *, passed: bool) -> Iterator[str]:
    """What the gate says of each policy; where it asks for nothing, what the upper bound is."""
    for name, found in run.safety.get("systems", {}).items():
        gate = found.get("gate", {})
        if gate and bool(gate["passes"]) == passed:
            allowed = "" if gate["max_unsafe"] is None else f", and {gate['max_unsafe']:.2%} is allowed"
            begin = "" if passed else "That unsafe replies are rare enough. "
            bound = f"at {gate['confidence']:.0%} confidence at most {gate['upper']:.2%}{allowed}"
            told = f"{gate['hits']} of {gate['n']} replies unsafe (by {gate['by']}), so {bound}."
            yield f"{begin}{system_title(run, name)}: {told}"


def _accuracy(run: RunRecord, *, known: bool) -> Iterator[str]:
    """Whether the reward model is better than a coin."""
    low, high = (run.summary.get(f"reward.heldout_accuracy_{key}") for key in ("low", "high"))
    if low is None or high is None or (low > 0.5) != known:
        return
    told = f"[{number(low)}, {number(high)}] of the held-out pairs"
    better = "he reward model orders pairs better than a coin"
    yield f"T{better}: {told}." if known else f"That t{better}: {told}."


def _cost_model(run: RunRecord, *, known: bool) -> Iterator[str]:
    """Whether the cost model knows more of what is unsafe than the length of a reply says."""
    found = run.done.get("cost_model", {}).get("calibration", {})
    low, high, length = (found.get(f"auroc{key}") for key in ("_low", "_high", "_of_length"))
    if low is None or high is None or length is None or (low > max(length, 1 - length)) != known:
        return
    told = f"AUROC [{number(low)}, {number(high)}], and {number(length)} by length alone"
    more = "he cost model knows more of harm than the length of a reply"
    yield f"T{more}: {told}." if known else f"That t{more}: {told}."


def _limits(run: RunRecord) -> Iterator[str]:
    """The methods whose last step was above the limit that they were given."""
    for method in methods_of(run):
        limit = run.setting(f"{method}.constraint.limit")
        for place in run.places(method) if limit is not None else ():
            costs = [row[f"{method}/cost"] for row in run.metrics[place] if row.get(f"{method}/cost") is not None]
            if costs and costs[-1] > limit:
                told = f"at its last step replies cost {number(costs[-1])}, and {number(limit)} is allowed"
                yield f"That {system_title(run, place)} holds its limit: {told}."
