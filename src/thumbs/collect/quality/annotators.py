"""What is known of each person's judgements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from thumbs.collect.quality.agreement import Sums, alpha_ordinal, counted, pooled_coincidences
from thumbs.collect.quality.bias import fair_coin, shown_first
from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import OVERALL, Comparisons, Judged

SCAN_CHARS_PER_S = 60
"""Nobody takes in more: 60 characters a second are 600 words of six a minute, Carver's scanning for one word (1992,
Journal of Reading 36, p. 84), where reading English takes 238 words a minute (Brysbaert 2019, Journal of Memory and
Language 109, 104047). Chinese says more in a character and is read more slowly still.
"""
READ_CHARS = 1000
"""What lies beyond of a reply is not counted: the verdict may fall before its end."""


@dataclass(frozen=True)
class Person:
    """One account's (id) judgements of real work, skips apart unless it says so; n of them, `part` of all there are.

    agree: where this person and others prefer one of the same two replies, the mean share of the others who prefer the
    same one; each judgement weighs one, and n counts them (Wilson). alpha_without: ordinal α of the rest, None where it
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


def people(judged: Judged) -> list[Person]:
    """Everyone who judged something or skipped, most judgements first."""
    of = _Counter(judged)
    skips = judged.said("skip")
    given = judged.work & ~skips
    n, tasks = of.votes(given), of.votes(judged.work)
    agree, compared = _agreement(judged)
    without = _alpha_without(judged)
    known, right = of.votes(judged.right >= 0), of.votes(judged.right == 1)
    timed, fast = of.speed(given & ~judged.said("write"))
    first, preferred = _first(judged)
    neither, skipped = of.votes(given & judged.said("tie", "both_bad")), of.votes(judged.work & skips)
    seconds, chars = of.medians(given)
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


@dataclass(frozen=True)
class _Counter:
    judged: Judged

    def votes(self, which: np.ndarray) -> np.ndarray:
        """How many of these votes each account gave, [A]."""
        return np.bincount(self.judged.account[which], minlength=len(self.judged.accounts))

    def speed(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of these votes have a time, and how many of those are too fast to have been read, [A] each."""
        timed = which & (self.judged.active_ms > 0)
        least = np.minimum(self.judged.lengths, READ_CHARS).sum(1) / SCAN_CHARS_PER_S
        return self.votes(timed), self.votes(timed & (self.judged.active_ms / 1000 < least))

    def medians(self, which: np.ndarray) -> tuple[list[float | None], list[float | None]]:
        """Median active seconds, of votes with a time, and median length of all replies together, by account."""
        judged, chars = self.judged, self.judged.lengths.sum(1)
        order = np.argsort(judged.account, kind="stable")
        seconds: list[float | None] = []
        lengths: list[float | None] = []
        for rows in np.split(order, np.searchsorted(judged.account[order], np.arange(1, len(judged.accounts)))):
            own = rows[which[rows]]
            timed = own[judged.active_ms[own] > 0]
            seconds.append(float(np.median(judged.active_ms[timed])) / 1000 if len(timed) else None)
            lengths.append(float(np.median(chars[own])) if len(own) else None)
        return seconds, lengths


def _agreement(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the shares of agreeing others, and the number of judgements that have others, [A] each."""
    accounts = len(judged.accounts)
    found = judged.compared.get(OVERALL)
    if found is None:
        return np.zeros(accounts), np.zeros(accounts, dtype=np.int64)
    decided = found.value != 0
    unit, vote, side = found.unit[decided], found.vote[decided], (found.value[decided] > 0).astype(np.int64)
    sides = np.bincount(unit * 2 + side, minlength=2 * (int(found.unit.max()) + 1)).reshape(-1, 2)
    others = sides.sum(1)[unit] - 1
    met = others > 0
    shares = (sides[unit, side] - 1)[met] / others[met]
    votes = len(judged.account)
    rows = np.bincount(vote[met], minlength=votes)
    mean = np.bincount(vote[met], weights=shares, minlength=votes) / np.maximum(rows, 1)
    agree = np.bincount(judged.account, weights=mean, minlength=accounts)
    return agree, np.bincount(judged.account[rows > 0], minlength=accounts)


def _alpha_without(judged: Judged) -> list[float | None]:
    """Ordinal α of all the others, by account."""
    found: Comparisons | None = judged.compared.get(OVERALL)
    if found is None:
        return [None] * len(judged.accounts)
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


def _first(judged: Judged) -> tuple[np.ndarray, np.ndarray]:
    """How many judgements prefer the reply shown first, and how many the first or the last, [A] each."""
    accounts = len(judged.accounts)
    found = judged.compared.get(OVERALL)
    if found is None:
        return np.zeros(accounts, dtype=np.int64), np.zeros(accounts, dtype=np.int64)
    first, preferred = shown_first(found)
    hits, n = (np.bincount(found.account[which], minlength=accounts) for which in (first, preferred))
    return hits, n
