"""What is known of each person's judgements, and what a team lead should look at, with the reason and the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from thumbs.collect.quality.agreement import Sums, alpha_ordinal, counted, pooled_coincidences
from thumbs.collect.quality.bias import fair_coin, shown_first
from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import OVERALL, VoteTable

SCAN_CHARS_PER_S = 60
"""Nobody takes in more: 60 characters per second are 600 words of six a minute, Carver's scanning for one word (1992,
Journal of Reading 36, p. 84), where reading English takes 238 words per minute (Brysbaert 2019, Journal of Memory and
Language 109, 104047). Chinese says more in a character and is read more slowly still.
"""
READ_CHARS = 1000
"""What lies beyond of a reply is not counted: the verdict may fall before its end."""

Code = Literal["position", "disagrees", "gold", "fast", "few"]
LEVEL = 0.05
GOLD_SHARE = 0.75
"""Share of known answers that people are expected to get right: the soft cut-off of Ouyang et al. 2022,
arXiv:2203.02155, appendix B.1.
"""
FAST_SHARE = 0.2
_FEW_SHARE, _FEW_PEOPLE, _FEW_VOTES = 0.8, 0.3, 50


@dataclass(frozen=True)
class Person:
    """One account's (id) judgements of real work, skips apart unless it says so; n of them, `part` of all there are.

    agree: where this person and others prefer one of the same two replies, the mean share of the others who prefer the
    same one; each judgement weighs one, and n counts them (Wilson). alpha_without: ordinal α of the rest, None if it
    is unknown. Both are of comparisons: ratings of single replies have none.
    gold: share right of the items whose answer is known. median_s: median active time, seconds; median_chars: median
    length of the replies of a task. fast: share of judgements of replies in less active time than it takes to scan them
    (see SCAN_CHARS_PER_S), of those whose time is known. first: share that prefers the reply shown first, as
    PositionBias has it, with its exact p. neither: share of ties and both_bad. skipped: share of all tasks.
    """

    account: int
    n: int
    part: float
    agree: Estimate
    alpha_without: float | None
    gold: Estimate
    median_s: float | None
    median_chars: float | None
    fast: Estimate
    first: Estimate
    first_p: float | None
    neither: Estimate
    skipped: Estimate


@dataclass(frozen=True)
class Finding:
    """code: what it is about; account: whom it is about, None: all; numbers: what a sentence in any language needs, `p`
    after Holm's correction among them where something was tested.
    """

    code: Code
    account: int | None
    numbers: Mapping[str, float]


def people(judged: VoteTable) -> list[Person]:
    """Everyone who judged something or skipped, most judgements first."""

    def votes(which: np.ndarray) -> np.ndarray:
        """How many of these votes each account gave, [A]."""
        return np.bincount(judged.account[which], minlength=len(judged.accounts))

    skips = judged.said("skip")
    given = judged.work & ~skips
    n, tasks = votes(given), votes(judged.work)
    agree, compared = _agreement(judged)
    without = _alpha_without(judged)
    known, right = votes(judged.right >= 0), votes(judged.right == 1)
    timed, fast = (votes(which) for which in _speed(judged, given & ~judged.said("write")))
    first, preferred = _first(judged)
    neither, skipped = votes(given & judged.said("tie", "both_bad")), votes(judged.work & skips)
    seconds = _medians(judged, given & (judged.active_ms > 0), judged.active_ms / 1000)
    chars = _medians(judged, given, judged.lengths.sum(1))
    total = max(1, int(n.sum()))
    found = [
        Person(
            account=int(account),
            n=int(n[a]),
            part=int(n[a]) / total,
            agree=share(float(agree[a]), int(compared[a])),
            alpha_without=without[a],
            gold=share(int(right[a]), int(known[a])),
            median_s=seconds[a],
            median_chars=chars[a],
            fast=share(int(fast[a]), int(timed[a])),
            first=share(int(first[a]), int(preferred[a])),
            first_p=fair_coin(int(first[a]), int(preferred[a])),
            neither=share(int(neither[a]), int(n[a])),
            skipped=share(int(skipped[a]), int(tasks[a])),
        )
        for a, account in enumerate(judged.accounts)
    ]
    return sorted(found, key=lambda person: (-person.n, person.account))


def _speed(judged: VoteTable, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of these votes have a time, and which of those are too fast to have been read, bool [V] each."""
    timed = which & (judged.active_ms > 0)
    least = np.minimum(judged.lengths, READ_CHARS).sum(1) / SCAN_CHARS_PER_S
    return timed, timed & (judged.active_ms / 1000 < least)


def _medians(judged: VoteTable, which: np.ndarray, value: np.ndarray) -> list[float | None]:
    """Median of `value` [V] over these votes, by account."""
    kept = np.flatnonzero(which)
    kept = kept[np.argsort(judged.account[kept], kind="stable")]
    of_people = np.split(value[kept], np.searchsorted(judged.account[kept], np.arange(1, len(judged.accounts))))
    return [float(np.median(own)) if len(own) else None for own in of_people]


def _agreement(judged: VoteTable) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the shares of agreeing others, and the number of judgements that have others, [A] each."""
    accounts = len(judged.accounts)
    found = judged.compared[OVERALL]
    decided = found.value != 0
    unit, vote, side = found.unit[decided], found.vote[decided], (found.value[decided] > 0).astype(np.int64)
    sides = np.bincount(unit * 2 + side, minlength=2 * (int(found.unit.max(initial=-1)) + 1)).reshape(-1, 2)
    others = sides.sum(1)[unit] - 1
    met = others > 0
    shares = (sides[unit, side] - 1)[met] / others[met]
    votes = len(judged.account)
    rows = np.bincount(vote[met], minlength=votes)
    mean = np.bincount(vote[met], weights=shares, minlength=votes) / np.maximum(rows, 1)
    agree = np.bincount(judged.account, weights=mean, minlength=accounts)
    return agree, np.bincount(judged.account[rows > 0], minlength=accounts)


def _alpha_without(judged: VoteTable) -> list[float | None]:
    """Ordinal α of all the others, by account."""
    found = judged.compared[OVERALL]
    categories = np.unique(found.value)
    counts, _ = counted(found, found.value, categories)
    whole, code = pooled_coincidences(counts), np.searchsorted(categories, found.value)
    alphas: list[float | None] = []
    order = np.argsort(found.account, kind="stable")
    for rows in np.split(order, np.searchsorted(found.account[order], np.arange(1, len(judged.accounts)))):
        before = counts[found.unit[rows]]
        after = before.copy()
        after[np.arange(len(rows)), code[rows]] -= 1
        pairs = whole - pooled_coincidences(before) + pooled_coincidences(after)
        pairs[np.abs(pairs) < 1e-9] = 0
        alpha = float(alpha_ordinal(Sums(pairs, np.zeros(0), np.zeros(0), np.zeros(0))))
        alphas.append(None if np.isnan(alpha) else alpha)
    return alphas


def _first(judged: VoteTable) -> tuple[np.ndarray, np.ndarray]:
    """How many judgements prefer the reply shown first, and how many the first or the last, [A] each."""
    found = judged.compared[OVERALL]
    first, preferred = (np.bincount(found.account[w], minlength=len(judged.accounts)) for w in shown_first(found))
    return first, preferred


def warnings(people: Sequence[Person]) -> list[Finding]:
    """Findings, most certain first, then whether few people make most of the data (`few`).

    Tested of each person, where there is something to test: prefers the reply shown first, or last (`position`, exact
    two-sided binomial test); agrees with others less often than the rest do (`disagrees`), knows fewer answers than
    GOLD_SHARE (`gold`), answers faster than one can read more often than FAST_SHARE (`fast`; exact one-sided binomial
    tests). All these tests of all people are one family, corrected by Holm's method (1979, Scandinavian Journal of
    Statistics 6, p. 65): the chance of a single false finding among them stays below 5 %.
    """
    tests = [test for person in people for test in _tests(person, people)]
    adjusted = holm([test.numbers["p"] for test in tests])
    tested = [replace(one, numbers={**one.numbers, "p": p}) for one, p in zip(tests, adjusted, strict=True)]
    found = [one for one in tested if one.numbers["p"] <= LEVEL]
    return sorted(found, key=lambda one: (one.numbers["p"], one.account)) + _few(people)


def holm(p: Sequence[float]) -> list[float]:
    """p values that hold for all of the tests together, in the order given."""
    order = np.argsort(p, kind="stable")
    steps = [min(1.0, (len(p) - rank) * p[i]) for rank, i in enumerate(order)]
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def _tests(person: Person, people: Sequence[Person]) -> Iterator[Finding]:
    """What each test says of the person, with the p of that test alone."""
    first, agree, gold, fast = person.first, person.agree, person.gold, person.fast
    if first.value is not None and person.first_p is not None:
        yield Finding("position", person.account, {"share": first.value, "n": first.n, "p": person.first_p})
    rest = [other.agree for other in people if other is not person and other.agree.value is not None]
    if agree.value is not None and rest:
        usual = sum((one.value or 0) * one.n for one in rest) / sum(one.n for one in rest)
        p = _binomial(np.ceil(agree.value * agree.n - 1e-9), agree.n, usual, "less")
        numbers = {"share": agree.value, "n": agree.n, "usual": usual, "p": p}
        yield Finding("disagrees", person.account, numbers)
    if gold.value is not None:
        right = round(gold.value * gold.n)
        p = _binomial(right, gold.n, GOLD_SHARE, "less")
        yield Finding("gold", person.account, {"missed": gold.n - right, "n": gold.n, "p": p})
    if fast.value is not None:
        p = _binomial(round(fast.value * fast.n), fast.n, FAST_SHARE, "greater")
        took = {"seconds": person.median_s or 0.0, "chars": person.median_chars or 0.0}
        yield Finding("fast", person.account, {"share": fast.value, "n": fast.n, **took, "p": p})


def _few(people: Sequence[Person]) -> list[Finding]:
    """That at most three in ten people make four fifths of fifty judgements or more."""
    parts = np.cumsum(sorted((person.part for person in people), reverse=True))
    if sum(person.n for person in people) < _FEW_VOTES:
        return []
    k = int(np.searchsorted(parts, _FEW_SHARE - 1e-9)) + 1
    if k > _FEW_PEOPLE * len(people):
        return []
    return [Finding("few", None, {"people": k, "share": float(parts[k - 1]), "of": len(people)})]


def _binomial(hits: float, n: int, expected: float, side: Literal["less", "greater"]) -> float:
    return float(binomtest(int(hits), n, expected, alternative=side).pvalue)
