"""What a reward model looks at besides the answer: accuracy by kind of pair, length, formatting, the end token.

All of it asks a scorer, any function from replies to scores, so it can be tried on scorers whose faults are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from thumbs.data.preferences import preferred
from thumbs.evaluation import statistics
from thumbs.evaluation.reward_audit import audit
from thumbs.functional.bootstrap import bootstrap
from thumbs.records import Message, Preference, Reply

Answer = tuple[tuple[Message, ...], Reply]
Scorer = Callable[[Sequence[Answer]], np.ndarray]
"""Scores [B] of replies to prompts (score units)."""
Ruler = Callable[[Answer], int]
"""Length of a reply, tokens."""

MATCHED = 0.1
"""Lengths that differ by at most this share of the longer count as matched."""
WORTH_A_WORD = 0.1
"""Shifts of the score, in deviations, from which on a finding is named."""

FORMATS: Mapping[str, Callable[[str], str]] = {
    "trailing space": lambda text: text + " ",
    "trailing line break": lambda text: text + "\n",
    "bold first line": lambda text: "**" + text.partition("\n")[0] + "**" + "".join(text.partition("\n")[1:]),
    "list": lambda text: "\n".join(f"- {line}" for line in text.splitlines()),
}
"""The same words in other clothes."""


@dataclass(frozen=True)
class Shift:
    """What a change to a reply does: mean shift of its score, in deviations of all scores, with its 95 % interval, and
    the share of pairs in which the change to the loser alone makes it the winner.
    """

    name: str
    shift: float
    low: float
    high: float
    flips: float


@dataclass(frozen=True)
class LengthEffect:
    """Whether length pays. slope: deviations of the score gap for one deviation of the length gap, at equal labels,
    with its 95 % interval; accuracy where lengths match, on matched_n pairs; accuracy of always choosing the longer.
    """

    slope: float
    low: float
    high: float
    matched_accuracy: float | None
    matched_low: float
    matched_high: float
    matched_n: int
    longer_is_better: float | None


def audit_scorer(scorer: Scorer, pairs: Sequence[Preference], ruler: Ruler, seed: int = 0) -> dict[str, Any]:
    """The whole audit as plain data: pairs, slices, length, formats, end, order and findings (sentences).

    Pairs on which nobody gave a verdict are left out; at least one must be untied.
    """
    pairs = [pair for pair in pairs if preferred(pair) is not None]
    answers = [(pair.prompt, reply) for pair in pairs for reply in pair.replies]
    scores = np.asarray(scorer(answers), dtype=np.float64)
    a, b = scores[0::2], scores[1::2]
    lengths = np.array([ruler(answer) for answer in answers])
    better = np.array([preferred(pair) for pair in pairs], dtype=np.float64)
    prompts = [pair.prompt for pair in pairs]
    sides = a.tolist(), b.tolist(), better.tolist(), lengths[0::2].tolist(), lengths[1::2].tolist()
    found = audit(*sides, prompts=prompts)
    length = length_bias(a - b, better, lengths[0::2], lengths[1::2], prompts, seed)
    formats = [
        _shift(name, scorer, answers, scores, lambda reply, f=change: replace(reply, text=f(reply.text)), seed)
        for name, change in FORMATS.items()
    ]
    end = _shift("no end token", scorer, answers, scores, lambda reply: replace(reply, stop_reason="length"), seed)
    backwards = np.asarray(scorer(answers[::-1]), dtype=np.float64)[::-1]
    order = float(np.abs(backwards - scores).max() / max(float(scores.std()), 1e-12))
    return {
        "pairs": found,
        "slices": slices(pairs, a - b, lengths[0::2], lengths[1::2]),
        "length": asdict(length),
        "formats": [asdict(shift) for shift in formats],
        "end": asdict(end),
        "order": order,
        "findings": list(_findings(found["ece"], length, [*formats, end], order)),
    }


def slices(
    pairs: Sequence[Preference], gap: np.ndarray, lengths_a: np.ndarray, lengths_b: np.ndarray
) -> list[dict[str, Any]]:
    """Untied pairs by kind, as plain data: how many (n), and the share whose preferred reply scores higher (accuracy),
    with its 95 % interval (low, high).

    The kinds are length ratio (quartiles of preferred / other), annotator, strength, margin, agreement of annotators,
    who wrote the replies, and turns of the prompt. A kind with a single group is left out; for an annotator, and for
    strength, the annotator's own verdicts count.
    """
    right: dict[tuple[str, str], list[tuple[bool, Any]]] = {}
    ratio = _quartiles([_log_ratio(p, x, y) for p, x, y in zip(pairs, lengths_a, lengths_b, strict=True)])
    margins = [pair.margin for pair in pairs]
    margin = _quartiles(margins) if any(margins) else [None] * len(pairs)
    for pair, d, length_group, margin_group in zip(pairs, gap, ratio, margin, strict=True):
        for judgement in pair.judgements:
            if judgement.verdict == "prefer":
                agrees = bool(d * judgement.strength < 0)
                for kind, name in (("annotator", judgement.annotator), ("strength", str(abs(judgement.strength)))):
                    right.setdefault((kind, name), []).append((agrees, pair.prompt))
        better = preferred(pair)
        if better is None or better == 0.5:
            continue
        correct = bool(d * (better - 0.5) > 0)
        groups = {
            "preferred / other length": length_group,
            "margin": margin_group,
            "annotators": ("agree" if better in (0, 1) else "differ") if len(pair.judgements) > 1 else None,
            "written by": " and ".join(sorted({reply.generator.name for reply in pair.replies})),
            "turns": "one" if sum(m.role == "user" for m in pair.prompt) == 1 else "several",
        }
        for kind, name in groups.items():
            if name is not None:
                right.setdefault((kind, name), []).append((correct, pair.prompt))
    kinds = [kind for kind, _ in right]
    found = []
    for (kind, name), hits in sorted(right.items(), key=lambda item: item[0]):
        if kinds.count(kind) > 1:
            value, low, high = statistics.clustered([hit for hit, _ in hits], [prompt for _, prompt in hits], 0)
            found.append({"kind": kind, "name": name, "n": len(hits), "accuracy": value, "low": low, "high": high})
    return found


def length_bias(
    gap: np.ndarray,
    better: np.ndarray,
    lengths_a: np.ndarray,
    lengths_b: np.ndarray,
    prompts: Sequence[object] | None = None,
    seed: int = 0,
) -> LengthEffect:
    """The partial effect of length on the score gap, given the label, by least squares on gap ~ label + length gap.

    gap, better (P(a is better)), lengths [P]. The interval is a bootstrap over prompts (None: each pair of another).
    """
    longer = (lengths_a - lengths_b).astype(np.float64)
    design = np.stack([2 * better - 1, longer / max(float(longer.std()), 1e-12)], axis=1)
    target = gap / max(float(gap.std()), 1e-12)
    slope = _slope(design, target)
    of = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts or range(len(gap))))}
    place = np.array([of[prompt] for prompt in prompts or range(len(gap))])

    def slopes(weights: np.ndarray) -> np.ndarray:
        return np.array([_slope(design * w[:, None], target * w) for w in np.sqrt(weights[:, place])])

    low, high = bootstrap(slopes, len(of), seed, draws=500)
    untied = better != 0.5
    close = untied & (np.abs(longer) <= MATCHED * np.maximum(lengths_a, lengths_b))
    right = (gap * (better - 0.5) > 0)[close]
    matched = statistics.clustered(right, place[close].tolist(), seed)
    differ = untied & (longer != 0)
    return LengthEffect(
        slope,
        float(low),
        float(high),
        matched.value if len(right) else None,
        matched.low,
        matched.high,
        len(right),
        float(((longer > 0) == (better > 0.5))[differ].mean()) if differ.any() else None,
    )


def agreement(gap: Sequence[float], other: Sequence[float], prompts: Sequence[object] | None = None) -> dict[str, Any]:
    """How far two reward models agree on the same pairs: share of score gaps with one sign, its 95 % interval, and the
    correlation of the gaps. Two models of the same data, each of one half, differ by what chance put into the half.
    """
    one, two = np.asarray(gap, dtype=np.float64), np.asarray(other, dtype=np.float64)
    same = one * two > 0
    value, low, high = statistics.clustered(same, prompts or range(len(same)), 0)
    varied = len(one) > 1 and one.std() > 0 and two.std() > 0
    correlation = float(np.corrcoef(one, two)[0, 1]) if varied else None
    return {"agreement": value, "low": low, "high": high, "correlation": correlation, "n": len(one)}


def _shift(
    name: str,
    scorer: Scorer,
    answers: Sequence[Answer],
    scores: np.ndarray,
    change: Callable[[Reply], Reply],
    seed: int,
) -> Shift:
    changed = np.asarray(scorer([(prompt, change(reply)) for prompt, reply in answers]), dtype=np.float64)
    moved = (changed - scores) / max(float(scores.std()), 1e-12)
    place = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompt for prompt, _ in answers))}
    rows = [place[prompt] for prompt, _ in answers]
    mean = statistics.ratio(np.bincount(rows, moved), np.bincount(rows), seed)
    winner = np.maximum(scores[0::2], scores[1::2])
    loser = np.where(scores[0::2] <= scores[1::2], changed[0::2], changed[1::2])
    return Shift(name, mean.value, mean.low, mean.high, float((loser > winner).mean()))


def _findings(ece: float, length: LengthEffect, shifts: Sequence[Shift], order: float) -> Iterator[str]:
    if ece > WORTH_A_WORD:
        yield f"probabilities are {ece:.0%} from the truth on average: trust the order of scores, not their distance"
    if abs(length.slope) > WORTH_A_WORD and length.low * length.high > 0:
        way = "longer" if length.slope > 0 else "shorter"
        yield (
            f"{way} replies score higher whatever they say: {abs(length.slope):.2f} deviations of the score gap for "
            "one deviation of length, at equal labels; a policy will exploit that"
        )
    for shift in shifts:
        if abs(shift.shift) > WORTH_A_WORD and shift.low * shift.high > 0:
            moved = f"{shift.name} moves the score by {shift.shift:+.2f} deviations"
            yield f"{moved} and makes the loser win in {shift.flips:.0%} of the pairs"
    if order > 0.01:
        yield f"a score depends on what else is scored with it, by up to {order:.2f} deviations"


def _slope(design: np.ndarray, target: np.ndarray) -> float:
    return float(np.linalg.lstsq(design, target, rcond=None)[0][1])


def _log_ratio(pair: Preference, length_a: int, length_b: int) -> float:
    ratio = float(np.log(max(length_a, 1) / max(length_b, 1)))
    return ratio if (preferred(pair) or 0.0) >= 0.5 else -ratio


def _quartiles(values: Sequence[float]) -> list[str]:
    """The quarter in which each value lies, as text that sorts."""
    edges = np.quantile(values, [0.25, 0.5, 0.75])
    return [f"quarter {1 + int(np.searchsorted(edges, value))}" for value in values]
