"""All statistics of one project that the team's pages show, made in one pass over its judgements.

A million judgements take columns of a few hundred bytes each while they are counted, and a few dozen afterwards;
`benchmarks/collect_scale.py` measures it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from thumbs.collect.overview import ROLES
from thumbs.collect.overview_tape import Tape
from thumbs.collect.quality import agreement, annotators, bias, disputes, findings, generators
from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import Judged
from thumbs.collect.records import Vote
from thumbs.collect.store import CollectStore

_MOST_DISPUTES = 2000
_BETWEEN_PAUSES, _PAUSE_S = 50, 1e-4
_LARGE = 100_000
"""Judgements from which on intervals come of fewer resamples: they are narrow then, and each costs a pass."""


@dataclass(frozen=True, eq=False)
class Numbers:
    """watermark: the newest judgement in them; votes: how many stand, of work and of known answers, skips among them;
    took_s: what they took to make. boards, matrices: by axis, "" is the question itself. golds: by item, how many
    answered it and how many were right. flagged: items, ascending.
    """

    watermark: int
    votes: int
    took_s: float
    tape: Tape
    overall: agreement.Agreement
    axes: Mapping[str, agreement.Agreement]
    position: bias.PositionBias
    length: bias.LengthBias
    people: Sequence[annotators.Person]
    findings: Sequence[findings.Finding]
    disputes: Sequence[disputes.Dispute]
    boards: Mapping[str, Sequence[generators.Standing]]
    matrix: generators.WinMatrix
    golds: Mapping[int, tuple[int, int]]
    flagged: Sequence[int]

    def share_of(self, verdict: str) -> Estimate:
        """The share of a verdict among the judgements, of a skip among all, of others among those that say something;
        with Wilson's interval.
        """
        counts = self.tape.verdicts
        of = counts.total() if verdict == "skip" else counts.total() - counts["skip"]
        return share(counts[verdict], of)

    def items_by(self, pair: tuple[int, ...]) -> Sequence[int]:
        """Items of the work whose replies these generators wrote, and no others, ascending."""
        return self.tape.pairs.get(tuple(sorted(set(pair))), ())


def make_numbers(store: CollectStore, project_id: int) -> Numbers:
    """Reads all judgements of the project that stand now."""
    start = time.monotonic()
    watermark = store.votes.watermark(project_id)
    tape = Tape()
    votes = tape.votes(_politely(store.votes.all(project_id, watermark=watermark, roles=ROLES)))
    judged = Judged.of(votes, tape.facts(store.votes.facts(project_id, roles=ROLES)))
    tape.close()
    resamples = 500 if len(judged.judgement) < _LARGE else 100
    axes = [axis for axis in judged.compared if axis]
    people = annotators.people(judged)
    return Numbers(
        watermark=watermark,
        votes=len(judged.judgement),
        tape=tape,
        overall=agreement.agreement(judged, resamples=resamples),
        axes=agreement.by_axis(judged, resamples=resamples),
        position=bias.position(judged),
        length=bias.length(judged),
        people=people,
        findings=findings.warnings(people),
        disputes=disputes.disputes(judged, _MOST_DISPUTES),
        boards={axis: generators.leaderboard(judged, axis, resamples=resamples) for axis in ["", *axes]},
        matrix=generators.win_matrix(judged),
        golds=_golds(judged),
        flagged=sorted(tape.flagged),
        took_s=time.monotonic() - start,
    )


def _politely(votes: Iterable[Vote]) -> Iterator[Vote]:
    """The same, with pauses: a thread that never waits keeps each request waiting for Python's lock, 5 ms a query."""
    for number, vote in enumerate(votes):
        if number % _BETWEEN_PAUSES == 0:
            time.sleep(_PAUSE_S)
        yield vote


def _golds(judged: Judged) -> dict[int, tuple[int, int]]:
    known = judged.right >= 0
    answered = np.bincount(judged.item[known], minlength=len(judged.items))
    right = np.bincount(judged.item[known], weights=judged.right[known], minlength=len(judged.items))
    return {int(judged.items[i]): (int(answered[i]), int(right[i])) for i in np.flatnonzero(answered)}
