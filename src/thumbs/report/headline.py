"""The summary's numbers in words: what each means, what is wanted of it, and whether it is met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from thumbs.config.pipeline import METHODS
from thumbs.report.numbers import number, percent
from thumbs.report.record import RunRecord


class HeadlineRow(NamedTuple):
    """A line of the headline table; `met` is None if nothing is wanted or nothing is known."""

    name: str
    value: float | None
    unit: str
    meaning: str
    wanted: str = ""
    met: bool | None = None


TITLES = {
    "direct": "training on the pairs",
    "ppo": "PPO",
    "group": "the group method",
    "rejection": "rejection sampling",
}
"""What the methods are called in a sentence."""

_FEW_PAIRS = 50
"""With so many an accuracy of 0.8 is known to 11 points."""

_LIMITS = {
    "reward.heldout_accuracy": (0.80, math.inf),
    "kl": (-math.inf, 15.0),
    "length_ratio": (0.7, 1.3),
    "distinct2_ratio": (0.8, math.inf),
}


def methods_of(run: RunRecord) -> list[str]:
    """The methods that the run's config has."""
    return [method for method in METHODS if run.setting(method) is not None]


def headline_rows(run: RunRecord) -> list[HeadlineRow]:
    """The rows of the headline table, None for numbers that are not there yet."""
    limits = _LIMITS | _gold_limit(run)
    methods = methods_of(run)
    meanings = [
        ("reward.heldout_accuracy", "fraction", _accuracy_meaning(run)),
        ("sft.gold", "gold score", "Mean gold score of the SFT model's replies to held-out prompts."),
        (
            "best_of_n.gold",
            "gold score",
            "The SFT model's best replies by the reward model: a baseline without training.",
        ),
        *(row for method in methods for row in _method_meanings(method)),
        ("peak_rss_gib", "GiB", "Most memory that the process held."),
    ]
    rows = [
        HeadlineRow(name, run.summary.get(name), unit, meaning, *_verdict(run.summary.get(name), _limit(limits, name)))
        for name, unit, meaning in meanings
    ]
    return [_on_few_pairs(run, row) if row.name == "reward.heldout_accuracy" else row for row in rows]


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


def _accuracy_meaning(run: RunRecord) -> str:
    text = "Held-out pairs, ties apart, that the reward model orders as labelled"
    low, high, n = (run.summary.get(f"reward.heldout_{key}") for key in ("accuracy_low", "accuracy_high", "pairs"))
    return f"{text}." if low is None else f"{text}; 95 % interval {number(low)} to {number(high)}, {n} pairs."


def _on_few_pairs(run: RunRecord, row: HeadlineRow) -> HeadlineRow:
    """With few pairs, the whole interval must lie on one side of the target before it counts as met or missed."""
    low, high, n = (run.summary.get(f"reward.heldout_{key}") for key in ("accuracy_low", "accuracy_high", "pairs"))
    if n is None or n >= _FEW_PAIRS or low is None or high is None:
        return row
    wanted = _LIMITS["reward.heldout_accuracy"][0]
    if low >= wanted or high < wanted:
        return row._replace(met=low >= wanted)
    return row._replace(met=None, wanted=f"{row.wanted}; {n} pairs cannot tell")


def _method_meanings(method: str) -> list[tuple[str, str, str]]:
    title = TITLES[method]
    return [
        (
            f"{method}.gold",
            "gold score",
            f"The same after {title}: what all this was for. Training sees labels or the reward model, never this.",
        ),
        (
            f"{method}.win_rate",
            "fraction",
            "Held-out prompts where the gold judge prefers its reply to SFT's; a tie is half.",
        ),
        (
            f"{method}.proxy",
            "score",
            "What the reward model says of its replies. If it rises and gold does not, it was fooled.",
        ),
        (f"{method}.kl", "nats per sequence", f"How far {title} moved from the SFT model."),
        (f"{method}.length_ratio", "ratio", "Mean reply length over SFT's. Far above 1, length alone may have won."),
        (
            f"{method}.distinct2_ratio",
            "ratio",
            "Distinct word pairs over SFT's. Far below 1, replies repeat each other.",
        ),
    ]


def headline_sentence(run: RunRecord) -> str:
    """What came out, in one or two sentences per method; empty before the evaluation."""
    return " ".join(filter(None, (_method_sentence(run, method) for method in methods_of(run))))


def _method_sentence(run: RunRecord, method: str) -> str:
    systems: Mapping[str, Any] = run.evaluation.get("systems", {})
    before, after = systems.get("sft", {}).get("gold"), systems.get(method, {}).get("gold")
    if before is None or after is None:
        return ""
    moved = "raised" if after > before else "lowered" if after < before else "left"
    change = f"from {number(before)} to {number(after)}" if before != after else f"at {number(after)}"
    title = TITLES[method][0].upper() + TITLES[method][1:]
    text = f"{title} {moved} the mean gold score on held-out prompts {change}"
    if (kl := systems[method].get("kl")) is not None:
        text += f", {number(kl)} nats per sequence from the SFT model"
    if not (win := run.evaluation.get("win_rates", {}).get(method)):
        return f"{text}."
    interval = f"95 % interval {percent(win.get('low'))} to {percent(win.get('high'))}, n = {win.get('n', '?')}"
    rate = percent(win.get("rate"))
    return f"{text}. The gold judge prefers its reply to SFT's on {rate} of them ({interval})."


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


def _verdict(value: float | None, limits: tuple[float, float] | None) -> tuple[str, bool | None]:
    if limits is None:
        return "", None
    low, high = limits
    if math.isinf(high):
        wanted = f"at least {number(low)}"
    elif math.isinf(low):
        wanted = f"at most {number(high)}"
    else:
        wanted = f"{number(low)} to {number(high)}"
    return wanted, None if value is None else low <= value <= high
