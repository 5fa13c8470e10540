"""Position and length bias: definitions by hand, planted biases found, none cried where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from judged_world import fact, of_answers, said, vote
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from thumbs.collect.quality.bias import length, position
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import Answer, ItemFacts, Vote


def _world(rng: np.random.Generator, items: int, people: int, *, left: float = 0.0, per_char: float = 0.0) -> VoteTable:
    """Everyone judges every item by its quality, which no length tells; `left` and `per_char` are added to that."""
    votes: list[Vote] = []
    facts: list[ItemFacts] = []
    for item in range(items):
        sizes = tuple(int(size) for size in rng.integers(50, 800, 2))
        facts.append(fact(item, lengths=sizes))
        quality = rng.normal(0, 2) + per_char * (sizes[1] - sizes[0])
        for account in range(people):
            display = (0, 1) if rng.random() < 0.5 else (1, 0)
            second = quality + rng.normal() + (-left if display == (0, 1) else left) > 0
            votes.append(vote(len(votes), item, account, said(2 if second else -2), display=display))
    return VoteTable.of(votes, facts)


def test_first_is_what_was_shown_first_not_the_first_slot() -> None:
    votes = [
        vote(0, 0, 0, said(-1)),
        vote(1, 0, 1, said(-1), display=(1, 0)),
        vote(2, 0, 2, said(4), display=(1, 0)),
        vote(3, 0, 3, said(0)),
        vote(4, 0, 4, Answer("both_bad")),
        vote(5, 0, 5, Answer("skip", skip_reason="other")),
    ]
    found = position(VoteTable.of(votes, [fact(0)]))
    assert (found.first.value, found.first.n) == (pytest.approx(2 / 3), 3)
    assert found.p == pytest.approx(1.0)


def test_the_test_of_position_is_exact() -> None:
    votes = [vote(n, n, 0, said(-1 if n < 17 else 1)) for n in range(20)]
    found = position(VoteTable.of(votes, [fact(n) for n in range(20)]))
    expected = binomtest(17, 20)
    interval = expected.proportion_ci(0.95, "wilson")
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.first.low, found.first.high) == pytest.approx((interval.low, interval.high))


def test_a_ranking_counts_the_replies_shown_first_and_last() -> None:
    votes = [
        vote(0, 0, 0, Answer("rank", ranks=(1, 2, 3)), display=(1, 0, 2)),  # slot 1 before slot 2: first is better
        vote(1, 0, 1, Answer("rank", ranks=(1, 2, 3)), display=(2, 1, 0)),  # slot 2 before slot 0: last is better
        vote(2, 0, 2, Answer("rank", ranks=(1, 2, 1)), display=(2, 1, 0)),  # equal
    ]
    found = position(VoteTable.of(votes, [fact(0, kind="rank", generators=(1, 2, 3), lengths=(9, 9, 9))]))
    assert (found.first.value, found.first.n) == (0.5, 2)


def test_a_planted_position_bias_is_found() -> None:
    found = position(_world(np.random.default_rng(0), 150, 2, left=1.0))
    assert found.p is not None
    assert found.p < 1e-3
    assert found.first.low is not None
    assert found.first.low > 0.5


def test_position_cries_wolf_no_more_often_than_it_may() -> None:
    """Three people judge the same 30 items, in 400 worlds: p < 0.05 in 5 % at most, within three standard errors."""
    rng = np.random.default_rng(1)
    p = np.array([position(_world(rng, 30, 3)).p for _ in range(400)], dtype=float)
    assert 0.005 < (p < 0.05).mean() < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_longer_counts_items_by_their_majority() -> None:
    facts = [fact(item, lengths=(100, 300)) for item in range(4)]
    answers = [
        *((0, account, said(1)) for account in range(3)),
        (0, 3, said(-1)),  # the longer by three to one
        *((1, account, said(-2)) for account in range(2)),  # the shorter
        (2, 0, said(1)),
        (2, 1, said(-1)),  # as many for each
        (3, 0, said(0)),
        (3, 1, said(4)),  # the longer, a tie aside
    ]
    found = length(of_answers(answers, facts))
    assert (found.longer.value, found.longer.n) == (pytest.approx(2 / 3), 3)
    assert found.p == pytest.approx(binomtest(2, 3).pvalue)


def test_odds_are_those_of_the_logistic_fit() -> None:
    judged = _world(np.random.default_rng(2), 80, 2, per_char=0.002)
    compared = judged.compared[""]
    x, second = compared.longer / 100, compared.value > 0

    def loss(beta: float) -> float:
        return float(np.logaddexp(0, np.where(second, -1, 1) * beta * x).sum())

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-10}).x
    found = length(judged)
    assert found.odds.value == pytest.approx(np.exp(best), rel=1e-6)
    assert found.odds.n == 80


def test_the_interval_of_the_odds_is_that_of_a_bootstrap_over_items() -> None:
    """Four people who agree are not four witnesses: a variance that took them for such would be half as wide."""
    rng = np.random.default_rng(3)
    sizes, side = rng.integers(50, 800, (200, 2)), rng.choice([-1, 1], 200)
    facts = [fact(item, lengths=tuple(int(size) for size in sizes[item])) for item in range(200)]
    answers = [(item, account, said(int(side[item]))) for item in range(200) for account in range(4)]
    found = length(of_answers(answers, facts)).odds
    x = (sizes[:, 1] - sizes[:, 0]) / 100 * side
    grid = np.linspace(-1, 1, 401)
    losses = np.logaddexp(0, -grid[:, None] * x)
    drawn = [grid[losses[:, rng.integers(0, 200, 200)].sum(1).argmin()] for _ in range(1500)]
    assert found.low is not None
    assert found.high is not None
    assert np.log([found.low, found.high]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.015)


def test_a_planted_length_bias_is_found() -> None:
    found = length(_world(np.random.default_rng(4), 150, 2, per_char=0.004))
    assert found.p is not None
    assert found.p < 1e-4
    assert found.odds.low is not None
    assert found.odds.low > 1


def test_length_cries_wolf_no_more_often_than_it_may() -> None:
    """People agree on the quality of an item, so its votes come together; p and the interval of the odds both hold."""
    rng = np.random.default_rng(5)
    found = [length(_world(rng, 40, 4)) for _ in range(300)]
    limit = 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean([one.p < 0.05 for one in found if one.p is not None]) < limit
    assert 0 < np.mean([not one.odds.low < 1 < one.odds.high for one in found if one.odds.low]) < limit


def test_what_cannot_be_known_is_none() -> None:
    nothing = of_answers([(0, 0, Answer("write", text="x"))])
    assert (position(nothing).p, position(nothing).first.value) == (None, None)
    assert (length(nothing).p, length(nothing).odds.value) == (None, None)
    alike = of_answers([(0, 0, said(1)), (1, 0, said(-1))])
    assert (length(alike).p, length(alike).longer.n) == (None, 0)


def test_odds_are_unknown_where_the_longer_always_wins() -> None:
    facts = [fact(item, lengths=(100, 200)) for item in range(9)]
    found = length(of_answers([(item, 0, said(1)) for item in range(9)], facts))
    assert (found.odds.value, found.odds.n) == (None, 9)
    assert found.longer.value == 1
