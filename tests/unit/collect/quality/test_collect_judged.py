"""Columns against the votes that they were made of."""

from __future__ import annotations

import pytest
from judged_world import fact, of_answers, said, vote

from thumbs.collect.errors import CollectError
from thumbs.collect.quality.judged import OVERALL, VoteTable, compared
from thumbs.collect.records import Answer


def test_a_pair_is_one_comparison_and_one_an_axis() -> None:
    answer = Answer("prefer", -3, axes={"honest": 2, "kind": 0})
    assert list(compared(answer)) == [("", 0, 1, -3), ("honest", 0, 1, 2), ("kind", 0, 1, 0)]


def test_a_ranking_implies_every_pair() -> None:
    found = list(compared(Answer("rank", ranks=(2, 1, 2))))
    assert found == [("", 0, 1, 1), ("", 0, 2, 0), ("", 1, 2, -1)]


def test_ratings_compare_on_axes_that_both_replies_have() -> None:
    answer = Answer(
        "rate", ratings=({"true": 5, "kind": 1, "short": 2}, {"true": 1, "kind": 2, "short": 4}, {"true": 1})
    )
    found = list(compared(answer))
    assert found == [
        ("", 0, 1, 1), ("true", 0, 1, -1), ("kind", 0, 1, 1), ("short", 0, 1, 1),
        ("", 0, 2, -1), ("true", 0, 2, -1),
        ("", 1, 2, 0), ("true", 1, 2, 0),
    ]  # fmt: skip


def test_columns_say_what_the_votes_say() -> None:
    facts = [
        fact(7, generators=(5, 6), lengths=(10, 40)),
        fact(9, kind="rank", generators=(6, 5, 4), lengths=(30, 20, 10)),
        fact(3, role="gold", gold=said(2)),
    ]
    votes = [
        vote(11, 9, 21, Answer("rank", ranks=(1, 2, 3)), display=(2, 0, 1)),
        vote(12, 7, 20, said(-4), display=(1, 0), active_ms=1234),
        vote(13, 7, 21, Answer("skip", skip_reason="other")),
        vote(14, 3, 20, said(1)),
        vote(15, 3, 21, said(-1)),
        vote(16, 3, 22, Answer("skip", skip_reason="other")),
    ]
    judged = VoteTable.of(iter(votes), iter(facts))
    assert judged.items.tolist() == [3, 7, 9]
    assert judged.accounts.tolist() == [20, 21, 22]
    assert judged.right.tolist() == [-1, -1, -1, 1, 0, -1]
    assert judged.work.tolist() == [True, True, True, False, False, False]
    assert judged.said("skip").tolist() == [False, False, True, False, False, True]
    assert judged.lengths[1].tolist() == [10, 40, 0, 0, 0, 0, 0, 0, 0]
    found = judged.compared[""]
    assert found.vote.tolist() == [0, 0, 0, 1]
    assert found.item.tolist() == [2, 2, 2, 1]
    assert found.account.tolist() == [1, 1, 1, 0]
    assert found.value.tolist() == [-1, -1, -1, -4]
    assert found.generators.tolist() == [[6, 5], [6, 4], [5, 4], [5, 6]]
    assert found.longer.tolist() == [-10, -20, -10, 30]
    assert found.earlier.tolist() == [-1, 1, 1, 1]  # shown 2, 0, 1: 0 before 1, after 2; 1 after 2; then 1 before 0
    assert found.ends.tolist() == [False, False, True, True]


def test_people_who_judge_the_same_replies_share_a_unit() -> None:
    found = of_answers([(0, 0, said(1)), (1, 0, said(2)), (0, 1, said(-1))]).compared[""]
    assert found.unit.tolist() == [0, 1, 0]


def test_a_vote_on_an_unknown_item_is_refused() -> None:
    with pytest.raises(CollectError, match="judgement 4 is of item 8"):
        VoteTable.of([vote(4, 8, 0, said(1))], [fact(7)])


def test_no_votes_are_no_columns() -> None:
    judged = VoteTable.of([], [])
    assert (len(judged.items), len(judged.accounts), list(judged.compared)) == (0, 0, [OVERALL])
    assert len(judged.compared[OVERALL].vote) == 0
