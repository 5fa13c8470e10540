"""Bradley–Terry, its intervals and Elo against a general optimiser, loops and worlds whose strengths are known."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest
from judged_world import fact, of_answers, said, vote
from scipy.optimize import minimize

from thumbs.collect.quality.generators import bradley_terry, leaderboard, win_matrix
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import Answer, ItemFacts

GAMES = [(1, 2, -1), (1, 2, 3), (2, 3, -4), (2, 3, -1), (1, 3, 0), (1, 3, -2), (3, 1, -1), (2, 3, 2)]
"""(generator of the first slot, of the second, strength)."""


def _pairs(games: list[tuple[int, int, int]]) -> VoteTable:
    facts = [fact(item, generators=(first, second)) for item, (first, second, _) in enumerate(games)]
    return of_answers([(item, 0, said(strength)) for item, (*_, strength) in enumerate(games)], facts)


def _world(rng: np.random.Generator, strengths: list[float], items: int, people: int = 1) -> VoteTable:
    """Pairs of two generators, 10 and more, each won with the probability of Bradley–Terry."""
    games, facts = [], []
    for item in range(items):
        first, second = (int(one) for one in rng.choice(len(strengths), 2, replace=False))
        facts.append(fact(item, generators=(10 + first, 10 + second)))
        wins = rng.random(people) < 1 / (1 + math.exp(strengths[second] - strengths[first]))
        games += [(item, account, said(-1 if won else 1)) for account, won in enumerate(wins)]
    return of_answers(games, facts)


def _most_likely(wins: np.ndarray) -> np.ndarray:
    """θ of the documented likelihood, an imagined tie with a generator of strength 0 each, by BFGS."""

    def loss(theta: np.ndarray) -> float:
        gaps = theta[:, None] - theta[None, :]
        return float(
            (wins * np.logaddexp(0, -gaps)).sum() + (np.logaddexp(0, theta) + np.logaddexp(0, -theta)).sum() / 2
        )

    return np.asarray(minimize(loss, np.zeros(len(wins)), method="BFGS", options={"gtol": 1e-9}).x)


def test_the_win_matrix_counts_ties_by_half() -> None:
    found = win_matrix(_pairs(GAMES))
    assert found.generators == (1, 2, 3)
    assert found.wins.tolist() == [[0, 1, 1.5], [1, 0, 2], [1.5, 1, 0]]
    assert found.n.tolist() == [[0, 2, 3], [2, 0, 3], [3, 3, 0]]
    cell = found.share(0, 2)
    assert (cell.value, cell.n) == (0.5, 3)
    assert found.share(0, 0).value is None


def test_strengths_are_the_most_likely_ones() -> None:
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 9, (4, 5, 5)) * (1 - np.eye(5)) / 2
    theta, _ = bradley_terry(wins)
    for one, expected in zip(theta, map(_most_likely, wins), strict=True):
        assert one == pytest.approx(expected, abs=1e-5)


def test_strengths_are_those_of_choix() -> None:
    """The imagined generator is a player like the others there: its strength is subtracted afterwards."""
    wins = np.random.default_rng(1).integers(0, 9, (5, 5)) * (1 - np.eye(5)) / 2
    players = np.pad(wins, (0, 1), constant_values=0.5)
    players[-1, -1] = 0
    fitted = choix.ilsr_pairwise_dense(players, tol=1e-12)
    assert bradley_terry(wins[None])[0][0] == pytest.approx(fitted[:-1] - fitted[-1], abs=1e-6)


def test_covariance_is_the_inverse_curvature() -> None:
    wins = np.array([[[0, 3.0], [2, 0]]])
    theta, covariance = bradley_terry(wins)
    p, q = 1 / (1 + np.exp(theta[0, 1] - theta[0, 0])), 1 / (1 + np.exp(-theta[0]))
    curve = 5 * p * (1 - p) * np.array([[1, -1], [-1, 1]]) + np.diag(q * (1 - q))
    assert covariance[0] == pytest.approx(np.linalg.inv(curve))


def test_newton_reaches_long_chains_of_lopsided_games() -> None:
    """Each beats the next alone, and never loses: full steps would overshoot until the Hessian is singular."""
    wins = np.zeros((1, 25, 25))
    wins[0, np.arange(24), np.arange(1, 25)] = 10.0 ** np.random.default_rng(0).integers(0, 7, 24)
    theta = bradley_terry(wins)[0][0]
    n = wins[0] + wins[0].T
    expected = (n / (1 + np.exp(theta[None, :] - theta[:, None]))).sum(1) + 1 / (1 + np.exp(-theta))
    assert wins[0].sum(1) + 0.5 == pytest.approx(expected, rel=1e-6)


def test_the_board_is_on_the_elo_scale() -> None:
    judged = _pairs(GAMES)
    theta = _most_likely(win_matrix(judged).wins)
    expected = 1000 + 400 / math.log(10) * (theta - theta.mean())
    board = leaderboard(judged)
    values = {one.generator: one.strength.value for one in board}
    assert [values[g] for g in (1, 2, 3)] == pytest.approx(expected, abs=1e-3)
    assert [one.generator for one in board] == sorted(values, key=lambda g: -(values[g] or 0))
    assert {one.generator: one.strength.n for one in board} == {1: 5, 2: 5, 3: 6}


def test_elo_is_counted_in_the_order_of_the_judgements() -> None:
    points = {1: 1000.0, 2: 1000.0, 3: 1000.0}
    for first, second, strength in GAMES:
        won = {-1: 1.0, 0: 0.5, 1: 0.0}[int(np.sign(strength))]
        gain = 16 * (won - 1 / (1 + 10 ** ((points[second] - points[first]) / 400)))
        points[first] += gain
        points[second] -= gain
    assert {one.generator: one.online for one in leaderboard(_pairs(GAMES))} == pytest.approx(points)


def test_elo_follows_the_judgements_however_the_votes_come() -> None:
    facts = [fact(item, generators=(first, second)) for item, (first, second, _) in enumerate(GAMES)]
    votes = [vote(item, item, 0, said(strength)) for item, (*_, strength) in enumerate(GAMES)]
    there, back = (leaderboard(VoteTable.of(some, facts)) for some in (votes, votes[::-1]))
    assert [one.online for one in there] == [one.online for one in back]


def test_known_strengths_are_found_and_separated() -> None:
    board = leaderboard(_world(np.random.default_rng(1), [1.5, 0.0, -1.5], 400))
    assert [one.generator for one in board] == [10, 11, 12]
    assert [(one.best_rank, one.worst_rank) for one in board] == [(1, 1), (2, 2), (3, 3)]
    assert [one.next_separated for one in board] == [True, True, False]
    gap = (board[0].strength.value or 0) - (board[2].strength.value or 0)
    assert gap == pytest.approx(3 * 400 / math.log(10), abs=120)


def test_equal_generators_are_not_separated() -> None:
    board = leaderboard(_world(np.random.default_rng(2), [0.0, 0.0, 0.0], 150))
    assert [(one.best_rank, one.worst_rank) for one in board] == [(1, 3)] * 3
    assert not any(one.next_separated for one in board)


@pytest.mark.parametrize(("games", "separated"), [(4, False), (20, True)])
def test_an_undefeated_generator_is_finite_and_not_certain(games: int, separated: bool) -> None:
    """Every resample says it never lost; the interval must not believe that after four games."""
    board = leaderboard(_pairs([(1, 2, -1)] * games))
    assert board[0].next_separated is separated
    best = board[0].strength
    assert best.value is not None
    assert best.low is not None
    assert best.high is not None
    assert best.low + 100 < best.value < best.high - 100


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Three people see each item and mostly say the same: only items are independent."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(120):
        won = rng.random(60) < 1 / (1 + math.exp(-0.8))
        facts = [fact(item) for item in range(60)]
        judged = of_answers([(item, a, said(-1 if won[item] else 1)) for item in range(60) for a in range(3)], facts)
        best = next(one.strength for one in leaderboard(judged, resamples=200) if one.generator == 1)
        assert best.low is not None
        assert best.high is not None
        covered += best.low <= 1000 + 0.4 * 400 / math.log(10) <= best.high
    assert 0.87 < covered / 120 <= 1


def test_groups_that_never_met_are_not_ordered() -> None:
    board = leaderboard(_pairs([(1, 2, -1)] * 30 + [(3, 4, 0)] * 30))
    group = {one.generator: one.group for one in board}
    assert group[1] == group[2] != group[3] == group[4]
    ranks = {one.generator: (one.best_rank, one.worst_rank) for one in board}
    assert ranks == {1: (1, 3), 2: (2, 4), 3: (1, 4), 4: (1, 4)}


def test_rankings_and_ratings_count_through_their_pairs() -> None:
    facts = [fact(0, generators=(1, 2, 2), lengths=(1, 1, 1)), fact(1, generators=(2, 1), lengths=(1, 1))]
    rate = Answer("rate", ratings=({"true": 4, "kind": 2}, {"true": 1, "kind": 3}))
    judged = of_answers([(0, 0, Answer("rank", ranks=(1, 2, 1))), (1, 0, rate)], facts)
    assert win_matrix(judged).wins.tolist() == [[0, 2.0], [1.0, 0]]  # beats slot 1, ties slot 2; one axis each
    assert win_matrix(judged, "true").wins.tolist() == [[0, 0], [1, 0]]
    assert win_matrix(judged, "kind").wins.tolist() == [[0, 1], [0, 0]]


def test_a_generator_is_not_compared_with_itself() -> None:
    facts: list[ItemFacts] = [fact(0, generators=(1, 1)), fact(1, generators=(1, 2))]
    judged = of_answers([(0, 0, said(1)), (1, 0, said(1))], facts)
    assert win_matrix(judged).wins.tolist() == [[0, 0], [1, 0]]


def test_without_comparisons_there_is_no_board() -> None:
    nothing = of_answers([(0, 0, Answer("skip", skip_reason="other"))])
    assert leaderboard(nothing) == []
    assert win_matrix(nothing).generators == ()
