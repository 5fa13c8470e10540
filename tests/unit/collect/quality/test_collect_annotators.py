"""What is told of each person, by hand; warnings that hold for many people together."""

from __future__ import annotations

from dataclasses import replace

import krippendorff
import numpy as np
import pytest
from judged_world import fact, of_answers, of_table, said, vote
from scipy.stats import binomtest

from thumbs.collect.quality.annotators import Finding, Person, holm, people, warnings
from thumbs.collect.quality.estimate import share
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import Answer, Vote

SKIP = Answer("skip", skip_reason="other")


def _by_account(judged: VoteTable) -> dict[int, Person]:
    return {person.account: person for person in people(judged)}


def _person(account: int, n: int = 40, **more: object) -> Person:
    """Nothing known but how much they did."""
    none = share(0, 0)
    person = Person(account, n, 0.1, none, None, none, None, None, none, none, None, none, none)
    return replace(person, **more)  # type: ignore[arg-type]


def test_agreement_with_others_weighs_each_judgement_once() -> None:
    table = np.array([[1, 2, 3, 0], [2, -1, 1, 4], [3, -2, np.nan, 4], [-1, np.nan, np.nan, 4]])
    found = _by_account(of_table(table))[0].agree
    # Item 0: two of three others agree; 1: none of two; 2: the one; 3: a tie, left out.
    assert (found.value, found.n) == (pytest.approx((2 / 3 + 0 + 1) / 3), 3)
    interval = binomtest(83, 100).proportion_ci(0.95, "wilson")
    assert share(83, 100).low == pytest.approx(interval.low)


def test_a_ranking_weighs_as_much_as_a_pair() -> None:
    facts = [fact(0, kind="rank", generators=(1, 2, 3), lengths=(1, 1, 1))]
    judged = of_answers([(0, 0, Answer("rank", ranks=(1, 2, 3))), (0, 1, Answer("rank", ranks=(1, 3, 2)))], facts)
    found = _by_account(judged)[0].agree
    assert (found.value, found.n) == (pytest.approx(2 / 3), 1)


def test_alpha_without_a_person_is_that_of_the_others() -> None:
    rng = np.random.default_rng(0)
    table = np.clip(np.round(rng.normal(0, 2, 50) + rng.normal(0, 1.5, (4, 50))), -4, 4)
    table[0] = rng.integers(1, 5, 50)  # one who does not look
    table[rng.random(table.shape) < 0.3] = np.nan
    for account, person in _by_account(of_table(table)).items():
        others = np.delete(table, account, 0)
        expected = krippendorff.alpha(others, level_of_measurement="ordinal")
        assert person.alpha_without == pytest.approx(expected, abs=1e-9)


def test_alpha_without_one_of_two_is_unknown() -> None:
    found = _by_account(of_table(np.array([[1.0, 2, -1], [1, -2, 3]])))
    assert [person.alpha_without for person in found.values()] == [None, None]


def test_counts_of_a_person() -> None:
    facts = [
        fact(0),
        fact(1),
        fact(2),
        fact(3),
        fact(8, role="gold", gold=said(3)),
        fact(9, role="gold", gold=said(-1)),
    ]
    votes = [
        vote(0, 0, 5, said(1), active_ms=4000, display=(1, 0)),
        vote(1, 1, 5, said(0), active_ms=2000),
        vote(2, 2, 5, Answer("both_bad"), active_ms=0),
        vote(3, 3, 5, SKIP, active_ms=100),
        vote(4, 8, 5, said(1), active_ms=100),
        vote(5, 9, 5, said(1)),
        vote(6, 0, 6, said(1), active_ms=9000),
        vote(7, 8, 6, SKIP),
    ]
    found = people(VoteTable.of(votes, facts))
    assert [person.account for person in found] == [5, 6]
    one, other = found
    assert (one.n, one.part) == (3, 0.75)
    assert (one.gold.value, one.gold.n) == (0.5, 2)
    assert (one.median_s, one.median_chars) == (3.0, 200.0)
    assert (one.fast.value, one.fast.n) == (0.5, 2)  # 200 characters take 3.3 s to scan; a time of 0 is none
    assert (one.first.value, one.first.n, one.first_p) == (1.0, 1, 1.0)
    assert (one.neither.value, one.neither.n) == (pytest.approx(2 / 3), 3)
    assert (one.skipped.value, one.skipped.n) == (0.25, 4)
    assert (other.gold.n, other.gold.value, other.skipped.value) == (0, None, 0)


def test_long_replies_need_not_be_read_to_their_end() -> None:
    facts = [fact(0, lengths=(100_000, 200)), fact(1, lengths=(100_000, 200))]
    votes = [vote(0, 0, 0, said(1), active_ms=19_900), vote(1, 1, 0, said(1), active_ms=20_100)]
    assert people(VoteTable.of(votes, facts))[0].fast.value == 0.5  # (1000 + 200) / 60 = 20 s


def test_nothing_known_is_none() -> None:
    found = people(of_answers([(0, 0, SKIP)]))[0]
    assert (found.n, found.part, found.median_s, found.first_p, found.alpha_without) == (0, 0, None, None, None)
    assert {found.agree.value, found.gold.value, found.fast.value, found.first.value, found.neither.value} == {None}
    assert people(VoteTable.of([], [])) == []


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_warning_gives_its_reason_and_numbers() -> None:
    first = share(86, 120)
    one = _person(3, first=first, first_p=float(binomtest(86, 120).pvalue))
    found = warnings([one, _person(4, first=share(60, 120), first_p=1.0)])
    p = pytest.approx(2 * float(binomtest(86, 120).pvalue))
    assert found == [Finding("position", 3, {"share": 86 / 120, "n": 120, "p": p})]


def test_gold_speed_and_agreement_are_tested_on_one_side() -> None:
    good = [_person(n, agree=share(80, 100), gold=share(40, 40), fast=share(0, 40)) for n in range(4)]
    bad = _person(9, agree=share(55, 100), gold=share(10, 40), fast=share(30, 40), median_s=4.0, median_chars=1240.0)
    found = {finding.code: finding for finding in warnings([*good, bad])}
    assert {finding.account for finding in found.values()} == {9}
    numbers = {code: dict(finding.numbers) for code, finding in found.items()}
    assert numbers["gold"].pop("p") == pytest.approx(15 * binomtest(10, 40, 0.75, "less").pvalue, rel=0.2)
    assert numbers["gold"] == {"missed": 30, "n": 40}
    assert numbers["fast"].items() >= {"share": 0.75, "n": 40, "seconds": 4, "chars": 1240}.items()
    assert numbers["disagrees"].items() >= {"share": 0.55, "n": 100, "usual": 0.8}.items()


def test_few_people_who_make_most_of_the_data() -> None:
    parts = [0.5, 0.2, 0.12, *[0.18 / 7] * 7]
    found = warnings([_person(n, n=10, part=part) for n, part in enumerate(parts)])
    assert found == [Finding("few", None, {"people": 3, "share": pytest.approx(0.82), "of": 10})]
    assert warnings([_person(n, n=10, part=0.1) for n in range(10)]) == []
    assert warnings([_person(0, n=500, part=1.0)]) == []


def _crowd(rng: np.random.Generator, biased: bool) -> VoteTable:
    """Twelve people who judge 40 items each, three an item; the last one may take the left 80 % of the time."""
    quality, votes = rng.normal(0, 1.5, 160), list[Vote]()
    for item in range(160):
        for account in [(item + shift) % 12 for shift in (0, 3, 7)]:
            display = (0, 1) if rng.random() < 0.5 else (1, 0)
            side = 1 if quality[item] + rng.normal() > 0 else -1
            if biased and account == 11 and rng.random() < 0.6:
                side = -1 if display == (0, 1) else 1
            votes.append(vote(len(votes), item, account, said(2 * side), display=display))
    return VoteTable.of(votes, [fact(item) for item in range(160)])


def test_one_biased_person_among_twelve_is_found() -> None:
    found = warnings(people(_crowd(np.random.default_rng(1), biased=True)))
    assert ("position", 11) in {(finding.code, finding.account) for finding in found}
    assert {finding.account for finding in found} == {11}


def test_honest_crowds_are_rarely_warned_of() -> None:
    """24 tests a crowd, and yet at most 5 % of crowds see a warning, within three standard errors."""
    rng = np.random.default_rng(2)
    warned = np.mean([bool(warnings(people(_crowd(rng, biased=False)))) for _ in range(150)])
    assert warned < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)
