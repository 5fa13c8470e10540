"""Votes as columns of numbers, which a million of them need."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar, get_args

import numpy as np

from thumbs.collect.errors import CollectError
from thumbs.collect.question import is_right
from thumbs.collect.records import Answer, ItemFacts, Verdict, Vote

OVERALL = ""
"""The name of the question itself among the axes."""
_VERDICTS: tuple[str, ...] = get_args(Verdict)
_SLOTS = 9

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Opinions:
    """One row for each number that a person gave, or implied, of the same thing.

    vote: its row in the votes. item, account: places in VoteTable.items and .accounts. unit: number of the thing that
    was judged, from 0; value: what was said of it. All int64 [N], in the order of the votes.
    """

    vote: np.ndarray
    item: np.ndarray
    account: np.ndarray
    unit: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False)
class Comparisons(Opinions):
    """Opinions on two replies of an item: below 0 the first slot is better, above 0 the second, 0 neither.

    Of pairs the value is the strength, or what was said of the axis, -4 … 4; both_bad is 0, as a tie is: it prefers
    neither. Rankings and ratings of K replies imply K(K - 1)/2 comparisons of value -1, 0 or 1.
    generators int64 [N, 2]: who wrote the two. longer int64 [N]: characters of the second minus those of the first.
    chosen int64 [N]: as `value`, but of the question as it was asked: a reversed question turns it round.
    earlier int64 [N]: -1 where the first was shown before the second, else 1. ends bool [N]: between them they were
    shown first and last.
    """

    generators: np.ndarray
    chosen: np.ndarray
    longer: np.ndarray
    earlier: np.ndarray
    ends: np.ndarray


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Votes, skips among them, and what they say.

    items, accounts int64: their ids, ascending. Of each vote: judgement (id), item and account (places in those),
    verdict (place in Verdict), active_ms, right (1 where the item's answer is known and this is it, 0 where
    it is not, -1 where nobody knows or it is a skip), work (whether the item is real work), lengths [V, 9] of the
    replies in characters.
    compared: by axis, OVERALL always and first, the comparisons of real work; rated: by axis the ratings of single
    replies. Golds and tests are chosen to be easy, so they count in neither.
    """

    items: np.ndarray
    accounts: np.ndarray
    judgement: np.ndarray
    item: np.ndarray
    account: np.ndarray
    verdict: np.ndarray
    active_ms: np.ndarray
    right: np.ndarray
    work: np.ndarray
    lengths: np.ndarray
    compared: Mapping[str, Comparisons]
    rated: Mapping[str, Opinions]

    @staticmethod
    def of(votes: Iterable[Vote], facts: Iterable[ItemFacts]) -> VoteTable:
        """Reads both once; raises CollectError for a vote on an item that `facts` does not know."""
        return _Reader({fact.item: fact for fact in facts}).read(votes)

    def said(self, *verdicts: str) -> np.ndarray:
        """Which votes have one of these verdicts, bool [V]."""
        return np.isin(self.verdict, [_VERDICTS.index(verdict) for verdict in verdicts])


class _Reader:
    def __init__(self, facts: Mapping[int, ItemFacts]) -> None:
        self.facts = facts
        self.axes: dict[str, int] = {OVERALL: 0}
        self.orders: dict[tuple[int, ...], int] = {}
        self.votes, self.compared, self.rated = array("q"), array("q"), array("q")

    def read(self, votes: Iterable[Vote]) -> VoteTable:
        for number, vote in enumerate(votes):
            fact = self.facts.get(vote.item)
            if fact is None:
                raise CollectError(f"judgement {vote.judgement} is of item {vote.item}, of which no facts were given")
            self.vote(number, vote, fact)
        return self.columns()

    def vote(self, number: int, vote: Vote, fact: ItemFacts) -> None:
        answer, work = vote.answer, fact.role == "work"
        skipped = answer.verdict == "skip"
        right = -1 if fact.gold is None or skipped else int(is_right(answer, fact.gold))
        verdict = _VERDICTS.index(answer.verdict)
        order = self.orders.setdefault(vote.display, len(self.orders))
        self.votes.extend((vote.judgement, vote.item, vote.account, verdict, vote.active_ms, right, work, order))
        if not work or skipped:
            return
        as_given = (value for *_, value in compared(vote.as_given))
        for (axis, first, second, value), chosen in zip(compared(answer), as_given, strict=True):
            self.compared.extend((number, self.axes.setdefault(axis, len(self.axes)), first, second, value, chosen))
        for slot, ratings in enumerate(answer.ratings):
            for axis, value in ratings.items():
                self.rated.extend((number, self.axes.setdefault(axis, len(self.axes)), slot, slot, value))

    def columns(self) -> VoteTable:
        votes = _table(self.votes, 8)
        items, item = np.unique(votes[:, 1], return_inverse=True)
        accounts, account = np.unique(votes[:, 2], return_inverse=True)
        facts = [self.facts[int(one)] for one in items]
        lengths = _padded([fact.lengths for fact in facts], 0)
        generators = _padded([fact.generators for fact in facts], -1)
        places = _padded([tuple(order.index(slot) for slot in range(len(order))) for order in self.orders], 0)
        last = np.array([len(order) - 1 for order in self.orders], dtype=np.int64)

        def opinions(rows: np.ndarray) -> Opinions:
            of, first, second = rows[:, 0], rows[:, 2], rows[:, 3]
            _, unit = np.unique((item[of] * _SLOTS + first) * _SLOTS + second, return_inverse=True)
            return Opinions(of, item[of], account[of], unit, rows[:, 4])

        def comparisons(rows: np.ndarray) -> Comparisons:
            some = opinions(rows)
            pair, order = rows[:, 2:4], votes[some.vote, 7]
            of = some.item[:, None]
            shown, size = places[order[:, None], pair], lengths[of, pair]
            return Comparisons(
                **vars(some),
                generators=generators[of, pair],
                chosen=rows[:, 5],
                longer=size[:, 1] - size[:, 0],
                earlier=np.where(shown[:, 0] < shown[:, 1], -1, 1),
                ends=np.abs(shown[:, 1] - shown[:, 0]) == last[order],
            )

        return VoteTable(
            items=items,
            accounts=accounts,
            judgement=votes[:, 0],
            item=item,
            account=account,
            verdict=votes[:, 3],
            active_ms=votes[:, 4],
            right=votes[:, 5],
            work=votes[:, 6] == 1,
            lengths=lengths[item],
            compared={OVERALL: comparisons(_table(array("q"), 6)), **self.by_axis(self.compared, 6, comparisons)},
            rated=self.by_axis(self.rated, 5, opinions),
        )

    def by_axis(self, flat: array[int], width: int, make: Callable[[np.ndarray], T]) -> dict[str, T]:
        rows = _table(flat, width)
        found = {axis: rows[rows[:, 1] == code] for axis, code in self.axes.items()}
        return {axis: make(some) for axis, some in found.items() if len(some)}


def compared(answer: Answer) -> Iterator[tuple[str, int, int, int]]:
    """(axis, slot, later slot, value) of each two replies that an answer compares, as Comparisons has it.

    Ratings compare on each axis; overall the reply that is better on more axes is.
    """
    if answer.verdict in ("prefer", "tie", "both_bad"):
        yield OVERALL, 0, 1, answer.strength
    for axis, value in answer.axes.items():
        yield axis, 0, 1, value
    for first, second in combinations(range(len(answer.ranks)), 2):
        yield OVERALL, first, second, _sign(answer.ranks[first] - answer.ranks[second])
    for first, second in combinations(range(len(answer.ratings)), 2):
        one, other = answer.ratings[first], answer.ratings[second]
        signs = {axis: _sign(other[axis] - value) for axis, value in one.items() if axis in other}
        if signs:
            yield OVERALL, first, second, _sign(sum(signs.values()))
        for axis, sign in signs.items():
            yield axis, first, second, sign


def _sign(number: int) -> int:
    return (number > 0) - (number < 0)


def _table(flat: array[int], columns: int) -> np.ndarray:
    return np.array(flat, dtype=np.int64).reshape(-1, columns)


def _padded(rows: list[tuple[int, ...]], filler: int) -> np.ndarray:
    return np.array([(*row, *(filler,) * (_SLOTS - len(row))) for row in rows], dtype=np.int64).reshape(-1, _SLOTS)
