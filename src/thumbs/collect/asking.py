"""A run's candidates as items of a project: which of them people have judged, and what they said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from thumbs.collect.items import Wanted
from thumbs.collect.records import ItemRecord, NewItem, Project, Vote
from thumbs.collect.store import CollectStore
from thumbs.config.labels import PeopleConfig
from thumbs.errors import ThumbsError
from thumbs.records import Judgement, Preference

if TYPE_CHECKING:
    from thumbs.stages.people import Candidate, Labels


class Asking:
    """One policy's candidates in a project: which of them are items, and what became of those."""

    def __init__(
        self,
        store: CollectStore,
        project: Project,
        settings: PeopleConfig,
        candidates: Iterator[Candidate],
        run: str,
        iteration: int,
        where: str,
    ) -> None:
        self.store, self.project, self.settings = store, project, settings
        self.candidates, self.run, self.iteration, self.where = candidates, run, iteration, where
        self.pairs: dict[int, Preference] = {}
        self.records: dict[int, ItemRecord] = {}
        self._counted: Counter[int] = Counter()
        self.exhausted = False
        self._watermark = -1

    @property
    def judged(self) -> int:
        """How many pairs have all the judgements that are wanted of them, of those that count in the project."""
        return sum(self._is_judged(record) for record in self.records.values())

    def fill(self) -> bool:
        """Adds candidates until as many as are wanted are judged or to be judged; returns whether any is new.

        One that somebody passed over counts as neither: nobody else may be there to judge it.
        """
        new = False
        while not self.exhausted and self._promising() < self.settings.pairs:
            candidate = next(self.candidates, None)
            if candidate is None:
                self.exhausted = True
            else:
                new |= self._add(candidate)
        return new

    def refresh(self) -> None:
        """Reads what was judged since, and adds candidates as they are needed."""
        watermark = self.store.votes.watermark(self.project.id)
        if watermark != self._watermark:
            self._watermark = watermark
            self.records = self._read()
        if self.store.projects.get(self.project.id).state != "closed":
            self.fill()

    def is_over(self) -> bool:
        """Whether there is nothing to wait for: enough is judged, no more can be, or the project is closed."""
        closed = self.store.projects.get(self.project.id).state == "closed"
        return closed or self.judged >= self.settings.pairs or (self.exhausted and self.judged == self._promising())

    def retire_stale(self) -> None:
        """Retires unanswered items that an earlier policy or attempt of this run added, and reopens those that this one
        asks again, for as many people as are wanted now.
        """
        if any(record.target != self.settings.overlap for record in self.records.values()):
            self.store.items.set_target(self.project.id, self.settings.overlap)
        stale = [r.id for r in self._items("open") if r.chosen_by.get("run") == self.run and r.id not in self.pairs]
        self.store.items.retire(stale)
        self.store.items.reopen([r.id for r in self.records.values() if r.state == "retired"])
        self.records = self._read()

    def labels(self) -> Labels:
        """What was said of the candidates, in their order; pairs that everybody passed over are left out."""
        from thumbs.stages.people import Labels

        votes = self.store.votes.by_item(list(self.pairs))
        said = {i: vs for i, vs in votes.items() if any(vote.answer.verdict != "skip" for vote in vs)}
        handles = {v.account: self.store.people.get(v.account).handle for vs in said.values() for v in vs}
        pairs = {i: pair for i, pair in self.pairs.items() if i in said}
        judged = [
            replace(pair, judgements=tuple(judgement_of(vote, handles[vote.account]) for vote in said[item]))
            for item, pair in pairs.items()
        ]
        return Labels(
            judged,
            self.project.slug,
            self.where,
            {pair.id: item for item, pair in pairs.items()},
            {pair.id: [vote.judgement for vote in said[item]] for item, pair in pairs.items()},
        )

    def _votes(self) -> Iterator[Vote]:
        """What was said of the candidates and counts in the project."""
        return self.store.votes.of_items(list(self.pairs))

    def _read(self) -> dict[int, ItemRecord]:
        self._counted = Counter(vote.item for vote in self._votes() if vote.answer.verdict != "skip")
        return {record.id: record for record in self._items() if record.id in self.pairs}

    def _items(self, state: str | None = None) -> Iterator[ItemRecord]:
        return self.store.items.all(self.project.id, Wanted(state, "work"))

    def _promising(self) -> int:
        """Pairs that are judged or may be: nobody is asked again about one whose judgements do not count."""
        return sum(
            self._is_judged(record) or (record.n_done < record.target and not record.n_skip)
            for record in self.records.values()
        )

    def _is_judged(self, record: ItemRecord) -> bool:
        return self._counted[record.id] >= record.target

    def _add(self, candidate: Candidate) -> bool:
        pair = candidate.pair
        chosen_by = {**candidate.chosen_by, "run": self.run, "iteration": self.iteration}
        item = NewItem(pair.prompt, pair.replies, pair.id, target=self.settings.overlap, chosen_by=chosen_by)
        added = self.store.items.add(self.project.id, [item])
        for item_id in added.ids:  # none, where a reply holds what no database keeps
            self.pairs[item_id], self.records[item_id] = pair, self.store.items.get(item_id)
            votes = self.store.votes.of_items([item_id])
            self._counted[item_id] = sum(vote.answer.verdict != "skip" for vote in votes)
        return added.created > 0


def judgement_of(vote: Vote, handle: str) -> Judgement:
    """What one person said of a pair, in our preference format."""
    answer = vote.answer
    if answer.verdict not in ("prefer", "tie", "both_bad", "skip"):
        raise ThumbsError(f"judgement {vote.judgement} says {answer.verdict!r}, which is not a verdict on a pair")
    reason = answer.skip_reason if answer.verdict == "skip" else answer.reason
    return Judgement(handle, vote.at.isoformat(timespec="seconds"), answer.verdict, answer.strength, reason)
