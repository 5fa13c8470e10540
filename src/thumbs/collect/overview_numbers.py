"""All statistics of one project that the team's pages show, made in one pass over its judgements, and kept until there
are new ones; those of a large project are made in the background.

A million judgements take columns of a few hundred bytes each while they are counted, and a few dozen afterwards;
`benchmarks/collect_scale.py` measures it.
"""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from sqlalchemy import func, select

from thumbs.collect.quality import agreement, annotators, bias, disputes, generators
from thumbs.collect.quality.estimate import Estimate, share
from thumbs.collect.quality.judged import VoteTable
from thumbs.collect.records import ITEM_ROLES, ItemFacts, Vote
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import JUDGEMENTS, PROJECTS
from thumbs.storage import Database

log = logging.getLogger(__name__)

AT_ONCE = 3000
"""Judgements of a project whose numbers are made while the page waits, which takes a fraction of a second."""
_REST = 4.0
"""After numbers that took t seconds none of the same project are made for so many times t, so that pages stay fast."""
_MOST_DISPUTES = 2000
_BETWEEN_PAUSES, _PAUSE_S = 50, 1e-4
_LARGE = 100_000
"""Judgements from which on intervals come of fewer resamples: they are narrow then, and each costs a pass."""


SECONDS = (0, 5, 10, 20, 40, 80, 160, 320)
"""Lower ends of the bins of the time that an answer took; the last has no upper end."""


@dataclass
class Tape:
    """Filled by those who iterate through `votes` and `facts`, so that a million judgements are read once.

    times: when each judgement was given (seconds since 1970), ascending; answers: how many are not skips; quartiles: a
    quarter, half and three quarters of those took at most so many active seconds, empty without any; bins: how many of
    them fell into each bin of SECONDS. These four are there once it is closed.
    shown: how many chose which strength in the order of display, below 0 the reply on the left or on top. late,
    verdicts, skips, flags: how many of each. flagged: items in which somebody ticked a flag. pairs: by the generators
    of an item's replies the ids of such items, ascending. last_seen: by account, seconds since 1970.
    """

    at: array[float] = field(default_factory=lambda: array("d"))
    active: array[float] = field(default_factory=lambda: array("d"))
    times: np.ndarray = field(default_factory=lambda: np.empty(0))
    answers: int = 0
    quartiles: tuple[float, ...] = ()
    bins: tuple[int, ...] = (0,) * len(SECONDS)
    late: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    shown: Counter[int] = field(default_factory=Counter)
    skips: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    flagged: set[int] = field(default_factory=set)
    pairs: dict[tuple[int, ...], array[int]] = field(default_factory=dict)
    last_seen: dict[int, float] = field(default_factory=dict)

    def votes(self, given: Iterable[Vote]) -> Iterator[Vote]:
        """The same votes."""
        for vote in given:
            self._note(vote)
            yield vote

    def facts(self, given: Iterable[ItemFacts]) -> Iterator[ItemFacts]:
        """The same facts."""
        for fact in given:
            if fact.role == "work":
                self.pairs.setdefault(tuple(sorted(set(fact.generators))), array("q")).append(fact.item)
            yield fact

    def close(self) -> None:
        """Sorts what came, once, for the questions below."""
        self.times = np.sort(np.asarray(self.at))
        seconds = np.asarray(self.active)
        self.bins = tuple(int(n) for n in np.histogram(seconds, bins=(*SECONDS, np.inf))[0])
        self.quartiles = tuple(float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75])) if len(seconds) else ()
        self.answers = len(seconds)
        self.at, self.active = array("d"), array("d")

    def hours(self, now: datetime, days: int = 7) -> list[int]:
        """Judgements in each hour of the last days, oldest first; the last hour ends now."""
        ends = now.timestamp() - 3600.0 * np.arange(days * 24, -1, -1)
        return np.diff(np.searchsorted(self.times, ends, side="right")).tolist()

    def rate(self, now: datetime, hours: float = 24.0) -> float:
        """Judgements an hour over the last `hours`, or since the first one where that is less."""
        end = now.timestamp()
        until, since = np.searchsorted(self.times, [end, end - 3600 * hours], side="right")
        if until == since:
            return 0.0
        return float(until - since) / min(hours, max((end - float(self.times[0])) / 3600, 0.1))

    def _note(self, vote: Vote) -> None:
        answer = vote.answer
        at = vote.at.timestamp()
        self.at.append(at)
        self.last_seen[vote.account] = max(at, self.last_seen.get(vote.account, 0.0))
        self.late += vote.late
        self.verdicts[answer.verdict] += 1
        if answer.verdict == "skip":
            self.skips[answer.skip_reason] += 1
            return
        self.active.append(vote.active_ms / 1000)
        if answer.strength:
            self.shown[-answer.strength if vote.display == (1, 0) else answer.strength] += 1
        for names in answer.flags:
            self.flags.update(names)
            if names:
                self.flagged.add(vote.item)


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
    findings: Sequence[annotators.Finding]
    disputes: Sequence[disputes.Dispute]
    boards: Mapping[str, Sequence[generators.GeneratorRank]]
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
    votes = tape.votes(_politely(store.votes.all(project_id, watermark=watermark, roles=ITEM_ROLES)))
    judged = VoteTable.of(votes, tape.facts(store.votes.facts(project_id, roles=ITEM_ROLES)))
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
        findings=annotators.warnings(people),
        disputes=disputes.disputes(judged, _MOST_DISPUTES),
        boards={axis: generators.leaderboard(judged, axis, resamples=resamples) for axis in ["", *axes]},
        matrix=generators.win_matrix(judged),
        golds=_golds(judged),
        flagged=sorted(tape.flagged),
        took_s=time.monotonic() - start,
    )


def _politely(votes: Iterable[Vote]) -> Iterator[Vote]:
    """The same, with pauses: a thread that never waits keeps each request waiting for Python's lock, 5 ms per query."""
    for number, vote in enumerate(votes):
        if number % _BETWEEN_PAUSES == 0:
            time.sleep(_PAUSE_S)
        yield vote


def _golds(judged: VoteTable) -> dict[int, tuple[int, int]]:
    known = judged.right >= 0
    answered = np.bincount(judged.item[known], minlength=len(judged.items))
    right = np.bincount(judged.item[known], weights=judged.right[known], minlength=len(judged.items))
    return {int(judged.items[i]): (int(answered[i]), int(right[i])) for i in np.flatnonzero(answered)}


@dataclass(frozen=True)
class Shown:
    """What a page may show now. numbers: None if none are ready yet; age_s: since they were made; coming: whether
    there are newer judgements, whose numbers are on their way; failed: why the last attempt made none, or "".
    """

    numbers: Numbers | None
    age_s: float
    coming: bool
    failed: str = ""


@dataclass
class _Kept:
    numbers: Numbers | None = None
    made: float = 0.0
    took: float = 0.0
    worker: threading.Thread | None = None
    failed: str = ""
    settings: object = None


class Snapshots:
    """`make(project_id)` gives the numbers; it runs in one thread per project at most."""

    def __init__(
        self, db: Database, make: Callable[[int], Numbers], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._db, self._make, self._clock = db, make, clock
        self._kept: dict[int, _Kept] = {}
        self._lock = threading.Lock()

    def of(self, project_id: int) -> Shown:
        """The numbers of a project: fresh ones of a small project, else the newest that there are."""
        newest, small, settings = self._newest(project_id)
        with self._lock:
            kept = self._kept.setdefault(project_id, _Kept())
            if kept.settings != settings and kept.worker is None:  # another part of the judgements may count now
                kept.numbers, kept.settings = None, settings
            if kept.numbers is not None and kept.numbers.watermark >= newest:
                return self._shown(kept, coming=False)
            rested = small or self._clock() - kept.made >= _REST * kept.took
            worker = kept.worker or (self._start(project_id, kept) if rested else None)
        if small and worker is not None:
            worker.join()
            return self._shown(kept, coming=False)
        return self._shown(kept, coming=True)

    def wait(self, project_id: int) -> Shown:
        """The numbers as soon as those under way are ready; for tests and programs without readers."""
        self.of(project_id)
        worker = self._kept[project_id].worker
        if worker is not None:
            worker.join()
        return self.of(project_id)

    def _start(self, project_id: int, kept: _Kept) -> threading.Thread:
        kept.worker = threading.Thread(target=self._work, args=(project_id, kept), daemon=True)
        kept.worker.start()
        return kept.worker

    def _work(self, project_id: int, kept: _Kept) -> None:
        start, made, failed = self._clock(), None, ""
        try:
            made = self._make(project_id)
        except Exception as error:  # a thread of its own: nobody else would hear of it
            log.exception("the numbers of project %d cannot be made", project_id)
            failed = f"{type(error).__name__}: {error}"
        with self._lock:
            kept.numbers = made or kept.numbers
            kept.made, kept.failed, kept.worker = self._clock(), failed, None
            kept.took = kept.made - start

    def _shown(self, kept: _Kept, *, coming: bool) -> Shown:
        return Shown(kept.numbers, self._clock() - kept.made, coming and not kept.failed, kept.failed)

    def _newest(self, project_id: int) -> tuple[int, bool, object]:
        """The newest judgement as far as it can be seen without waiting for writers, whether there are few, and the
        project's settings.
        """
        of = JUDGEMENTS.c.project_id == project_id
        some = select(JUDGEMENTS.c.id).where(of).limit(AT_ONCE + 1).subquery()
        with self._db.reading() as db:
            newest = db.scalar(select(func.max(JUDGEMENTS.c.id)).where(of)) or 0
            settings = db.scalar(select(PROJECTS.c.settings).where(PROJECTS.c.id == project_id))
            return newest, (db.scalar(select(func.count()).select_from(some)) or 0) <= AT_ONCE, settings
