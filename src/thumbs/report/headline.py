"""The run's numbers in words: what decides, what each means, what the demonstration wants, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from thumbs.config.pipeline import METHODS
from thumbs.evaluation import statistics
from thumbs.evaluation.replies import column, table
from thumbs.evaluation.results import BEST_OF_N, NO_GOLD, sentence
from thumbs.report.numbers import number, percent
from thumbs.report.record import RunRecord
from thumbs.report.systems import reference_of, system_title


class HeadlineRow(NamedTuple):
    """A line of the headline table. low, high: the 95 % interval, where one is known.

    wanted: what the demonstration promises. met: whether the whole interval is there or the whole of it is not; None
    if neither, if there is no interval, or if nothing is wanted.
    """

    name: str
    title: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    meaning: str
    wanted: str = ""
    met: bool | None = None


_LIMITS = {
    "reward.heldout_accuracy": (0.80, math.inf),
    "kl": (-math.inf, 15.0),
    "length_ratio": (0.7, 1.3),
    "distinct2_ratio": (0.8, math.inf),
}
"""What docs/demo.md promises of the demonstration, and of nothing else."""


def methods_of(run: RunRecord) -> list[str]:
    """The methods that the run's config has."""
    return [method for method in METHODS if run.setting(method) is not None]


def decides(run: RunRecord) -> str:
    """The comparison that decides, in one sentence; before that, or without it, why there is none."""
    if not run.evaluation:
        return "" if run.setting("evaluation") is None else "The evaluation was not run yet, so nothing is decided."
    comparisons = run.evaluation.get("comparisons")
    if comparisons is None:
        return "Nothing was compared on the same prompts, since no replies were kept; `thumbs eval` measures again."
    return f"{in_words(run, comparisons[0])}." if comparisons else "There is nothing to compare."


def in_words(run: RunRecord, comparison: Mapping[str, Any]) -> str:
    """`PPO minus best of 4 at the same KL: +0.01 [−0.07, +0.09]: not better`."""
    return sentence(comparison, {comparison[side]: system_title(run, comparison[side]) for side in ("left", "right")})


def has_gold(run: RunRecord) -> bool:
    """Whether the evaluation was given somebody whom the user trusts."""
    return bool(run.evaluation) and run.evaluation.get("judge") is not None


def judged_by(run: RunRecord) -> str:
    """Who judged, on how many prompts; the words on a gold that was not given."""
    systems = run.evaluation.get("systems", {})
    if not systems:
        return "" if run.setting("evaluation") else f"{NO_GOLD.partition(':')[0].capitalize()}; nothing was evaluated."
    n = next(iter(systems.values())).get("n")
    if not has_gold(run):
        return f"{NO_GOLD.capitalize()}. {number(n)} prompts, the same for all."
    told = "held-out prompts, the same for all; intervals by a bootstrap over prompts."
    return f"Gold is “{run.evaluation['judge']}”. {number(n)} {told}"


def headline_rows(run: RunRecord) -> list[HeadlineRow]:
    """The rows of the headline table, without a value for numbers that are not there yet."""
    limits = _LIMITS | _gold_limit(run) if _is_demonstration(run) else {}
    rows = []
    for name, title, unit, meaning in _meanings(run):
        value, (low, high) = run.summary.get(name), _interval(run, name)
        rows.append(
            HeadlineRow(name, title, value, low, high, unit, meaning, *_verdict(low, high, _limit(limits, name)))
        )
    return rows


def labels_sentence(run: RunRecord) -> str:
    """Whose labels the run learned from, and how well that can be known; empty where they are not people's."""
    if not run.labels:
        return ""
    people = {name for told in run.labels for name in told["by"]}
    labels, pairs = (sum(told[key] for told in run.labels) for key in ("labels", "pairs"))
    by = f"{len(people)} {'person' if len(people) == 1 else 'people'}"
    of = f", of {number(pairs)} pairs" if labels != pairs else ""
    text = f"{number(labels)} label{'' if labels == 1 else 's'} by {by}{of}."
    audit = run.labels[-1]["audit"]
    if not audit:
        return text
    return (
        f"{text} The reward model orders {percent(audit['accuracy'])} of {audit['n']} held-out pairs as they do (95 % "
        f"interval {percent(audit['accuracy_low'])} to {percent(audit['accuracy_high'])})."
    )


def _meanings(run: RunRecord) -> Iterator[tuple[str, str, str, str]]:
    """(key of summary.json, title, unit, meaning) of what this run measures."""
    if run.setting("reward_model") is not None or "reward.heldout_accuracy" in run.summary:
        n = run.summary.get("reward.heldout_pairs")
        told = f"Held-out pairs, ties apart, that it orders as labelled{f'; {n} pairs' if n else ''}."
        yield "reward.heldout_accuracy", "Accuracy of the reward model", "fraction", told
    if run.setting("evaluation") is not None or run.evaluation:
        before, title = reference_of(run), system_title(run, reference_of(run))
        told = "Mean gold score of its replies to held-out prompts."
        yield f"{before}.gold", f"Gold, {title}", "gold score", told
        told = f"The best of several replies of {title} by the reward model: a baseline without training."
        yield f"{BEST_OF_N}.gold", f"Gold, {system_title(run, BEST_OF_N).lower()}", "gold score", told
        for method in methods_of(run):
            yield from _method_meanings(method, system_title(run, method), title)
    yield "peak_rss_gib", "Memory", "GiB", "Most memory that the process held."


def _method_meanings(method: str, title: str, before: str) -> Iterator[tuple[str, str, str, str]]:
    told = "What all this was for. Training sees labels or the reward model, never this."
    yield f"{method}.gold", f"Gold, {title}", "gold score", told
    told = f"How often its reply is judged better than {before}'s to the same prompt; a tie is half."
    yield f"{method}.win_rate", f"Win rate of {title}", "fraction", told
    told = "What the reward model says of its replies. If it rises and gold does not, it was fooled."
    yield f"{method}.proxy", f"Proxy, {title}", "score", told
    yield f"{method}.kl", f"KL of {title}", "nats per sequence", f"How far it moved from {before}."
    told = f"Mean reply length over {before}'s. Far above 1, length alone may have won."
    yield f"{method}.length_ratio", f"Length, {title}", "ratio", told
    told = f"Distinct word pairs over {before}'s. Far below 1, replies repeat each other."
    yield f"{method}.distinct2_ratio", f"Variety, {title}", "ratio", told


def _interval(run: RunRecord, name: str) -> tuple[float | None, float | None]:
    """The 95 % interval of a number of the summary, from wherever it is kept."""
    system, _, key = name.rpartition(".")
    if f"{name}_low" in run.summary:
        return run.summary[f"{name}_low"], run.summary[f"{name}_high"]
    if key == "length_ratio" and run.replies:
        ours, theirs = (column(table(run.replies, s), "tokens").mean(axis=1) for s in (system, reference_of(run)))
        return statistics.ratio(ours, theirs, run.seed)[1:] if len(ours) == len(theirs) else (None, None)
    numbers = run.evaluation.get("systems", {}).get(system, {})
    return numbers.get(f"{key}_low"), numbers.get(f"{key}_high")


def _is_demonstration(run: RunRecord) -> bool:
    """Whether the run is that of docs/demo.md, small or not: it learns from and is measured on packaged data."""
    sources = [run.setting(f"{key}.path") for key in ("sft.data", "labels.prompts", "evaluation.prompts")]
    return all(str(source).startswith("builtin:") for source in sources)


def _gold_limit(run: RunRecord) -> dict[str, tuple[float, float]]:
    """Half of the way from SFT's gold score to 1, or 0.25 above it; for a judge whose best is 1, and who made the
    labels.
    """
    before = run.summary.get("sft.gold")
    if before is None or run.labels or run.evaluation.get("judge") != "vader":
        return {}
    return {"gold": (before + min(0.25, (1 - before) / 2), math.inf)}


def _limit(limits: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float] | None:
    """The limit of a number by its name, or of a method's by the last part of it."""
    stage, _, key = name.partition(".")
    return limits.get(name) or (limits.get(key) if stage in METHODS else None)


def _verdict(low: float | None, high: float | None, limits: tuple[float, float] | None) -> tuple[str, bool | None]:
    if limits is None:
        return "", None
    least, most = limits
    if math.isinf(most):
        wanted = f"at least {number(least)}"
    else:
        wanted = f"at most {number(most)}" if math.isinf(least) else f"{number(least)} to {number(most)}"
    if low is None or high is None:
        return wanted, None
    if high < least or low > most:
        return wanted, False
    return wanted, True if least <= low and high <= most else None
