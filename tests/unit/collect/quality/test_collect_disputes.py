"""Which items are in dispute, why, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
from judged_world import fact, of_answers, said

from thumbs.collect.quality.disputes import disputes
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import Answer


def _pairs(*answers: tuple[Answer, ...]) -> VoteTable:
    return of_answers([(item, account, one) for item, some in enumerate(answers) for account, one in enumerate(some)])


def test_why_an_item_is_disputed() -> None:
    skip, bad = Answer("skip", skip_reason="other"), Answer("both_bad")
    judged = _pairs(
        (said(1), said(2), skip),  # 0: nothing
        (said(-1), said(1)),  # 1
        (said(-2), said(3)),  # 2
        (said(-4), said(4), said(4)),  # 3
        (bad, said(2), said(2)),  # 4
        (bad, said(0)),  # 5: nothing, neither is preferred
        (said(4), said(0)),  # 6: nothing, 4 steps apart and no opposite
        (bad, said(-4), said(1)),  # 7
    )
    found = disputes(judged)
    assert [(one.item, one.why, one.n) for one in found] == [
        (3, ("opposite", "far"), 3),
        (2, ("opposite", "far"), 2),
        (7, ("opposite", "far", "both_bad"), 3),
        (1, ("opposite",), 2),
        (4, ("both_bad",), 3),
    ]
    expected = [np.std(values, ddof=1) for values in ([-4, 4, 4], [-2, 3], [0, -4, 1], [-1, 1], [0, 2, 2])]
    assert [one.sd for one in found] == pytest.approx(expected)
    assert disputes(judged, most=2) == found[:2]


def test_equal_deviations_come_oldest_first() -> None:
    assert [one.item for one in disputes(_pairs(*[(said(-1), said(1))] * 3))] == [0, 1, 2]


def test_rankings_are_disputed_where_two_replies_change_places() -> None:
    facts = [fact(item, kind="rank", generators=(1, 2, 3), lengths=(1, 1, 1)) for item in range(2)]
    ranks = [((1, 2, 3), (1, 3, 2)), ((1, 1, 2), (1, 2, 2))]
    answers = [(item, a, Answer("rank", ranks=one)) for item, some in enumerate(ranks) for a, one in enumerate(some)]
    found = disputes(of_answers(answers, facts))
    assert [(one.item, one.why) for one in found] == [(0, ("opposite",))]
    assert found[0].sd == pytest.approx(np.sqrt((0 + 0 + 2) / 3))


def test_ratings_are_disputed_beyond_half_of_the_scale_in_use() -> None:
    facts = [fact(item, kind="rate", generators=(1,), lengths=(1,)) for item in range(3)]
    given = [(1, 3), (5, 2), (4, 4)]  # 1 … 5: more than 2 apart
    answers = [
        (item, account, Answer("rate", ratings=({"clear": value},)))
        for item, some in enumerate(given)
        for account, value in enumerate(some)
    ]
    found = disputes(of_answers(answers, facts))
    assert [(one.item, one.why, one.sd) for one in found] == [(1, ("ratings",), pytest.approx(np.std([5, 2], ddof=1)))]


def test_golds_are_not_disputed() -> None:
    facts = [fact(0, role="gold", gold=said(1))]
    assert disputes(of_answers([(0, 0, said(1)), (0, 1, said(-4))], facts)) == []


def test_nobody_disputes_nothing() -> None:
    assert disputes(VoteTable.of([], [])) == []
