"""What a team lead should look at, with the reason and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from thumbs.collect.quality.annotators import Person

Code = Literal["position", "disagrees", "gold", "fast", "few"]
LEVEL = 0.05
GOLD_SHARE = 0.75
"""Share of known answers that people are expected to get right: the soft cut-off of Ouyang et al. 2022,
arXiv:2203.02155, appendix B.1.
"""
FAST_SHARE = 0.2
_FEW_SHARE, _FEW_PEOPLE, _FEW_VOTES = 0.8, 0.3, 50


@dataclass(frozen=True)
class Finding:
    """code: what it is about; numbers: what a sentence in any language needs; text: the sentence in English. account:
    whom it is about, None: all. p: after Holm's correction; None where nothing was tested.
    """

    code: Code
    account: int | None
    numbers: Mapping[str, float]
    text: str
    p: float | None = None


def warnings(people: Sequence[Person], names: Mapping[int, str] | None = None) -> list[Finding]:
    """Findings, most certain first, then whether few people make most of the data (`few`).

    Tested of each person, where there is something to test: prefers the reply shown first, or last (`position`, exact
    two-sided binomial test); agrees with others less often than the rest do (`disagrees`), knows fewer answers than
    GOLD_SHARE (`gold`), answers faster than one can read more often than FAST_SHARE (`fast`; exact one-sided binomial
    tests). All these tests of all people are one family, corrected by Holm's method (1979, Scandinavian Journal of
    Statistics 6, p. 65): the chance of a single false finding among them stays below 5 %.
    """
    tests = [test for person in people for test in _tests(person, people, (names or {}).get(person.account))]
    adjusted = holm([p for p, _ in tests])
    found = [
        Finding(one.code, one.account, {**one.numbers, "p": p}, f"{one.text}; {_p(p)} among {len(tests)} tests", p)
        for p, (_, one) in zip(adjusted, tests, strict=True)
        if p <= LEVEL
    ]
    return sorted(found, key=lambda finding: (finding.p, finding.account)) + _few(people)


def holm(p: Sequence[float]) -> list[float]:
    """p values that hold for all of the tests together, in the order given."""
    order = np.argsort(p, kind="stable")
    steps = [min(1.0, (len(p) - rank) * p[i]) for rank, i in enumerate(order)]
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


def _tests(person: Person, people: Sequence[Person], name: str | None) -> list[tuple[float, Finding]]:
    name = name or f"account {person.account}"
    account = person.account
    found: list[tuple[float, Finding]] = []

    def add(p: float, code: Code, text: str, **numbers: float) -> None:
        found.append((p, Finding(code, account, numbers, text)))

    first, agree, gold, fast = person.first, person.agree, person.gold, person.fast
    if first.value is not None and person.first_p is not None:
        text = f"{name} chose the reply shown first {first.value:.0%} of {first.n} times"
        add(person.first_p, "position", text, share=first.value, n=first.n)
    rest = [other.agree for other in people if other is not person and other.agree.value is not None]
    if agree.value is not None and rest:
        usual = sum((one.value or 0) * one.n for one in rest) / sum(one.n for one in rest)
        text = f"{name} agrees with others in {agree.value:.0%} of {agree.n} judgements, the rest in {usual:.0%}"
        p = _binomial(np.ceil(agree.value * agree.n - 1e-9), agree.n, usual, "less")
        add(p, "disagrees", text, share=agree.value, n=agree.n, usual=usual)
    if gold.value is not None:
        missed = gold.n - round(gold.value * gold.n)
        text = f"{name} missed {missed} of {gold.n} known answers"
        add(_binomial(gold.n - missed, gold.n, GOLD_SHARE, "less"), "gold", text, missed=missed, n=gold.n)
    if fast.value is not None:
        seconds, chars = person.median_s or 0.0, person.median_chars or 0.0
        text = f"{name} was faster than one can read in {fast.value:.0%} of {fast.n} judgements"
        text += f" (median {seconds:.3g} s for {chars:.0f} characters)"
        p = _binomial(round(fast.value * fast.n), fast.n, FAST_SHARE, "greater")
        add(p, "fast", text, share=fast.value, n=fast.n, seconds=seconds, chars=chars)
    return found


def _few(people: Sequence[Person]) -> list[Finding]:
    """That at most three in ten people make four fifths of fifty judgements or more."""
    parts = np.cumsum(sorted((person.part for person in people), reverse=True))
    if sum(person.n for person in people) < _FEW_VOTES:
        return []
    k = int(np.searchsorted(parts, _FEW_SHARE - 1e-9)) + 1
    if k > _FEW_PEOPLE * len(people):
        return []
    who = "1 person makes" if k == 1 else f"{k} people make"
    text = f"{who} {parts[k - 1]:.0%} of the judgements of {len(people)}"
    return [Finding("few", None, {"people": k, "share": float(parts[k - 1]), "of": len(people)}, text)]


def _binomial(hits: float, n: int, expected: float, side: Literal["less", "greater"]) -> float:
    return float(binomtest(int(hits), n, expected, alternative=side).pvalue)


def _p(p: float) -> str:
    return "p < 1e-5" if p < 1e-5 else f"p = {p:.2g}"
