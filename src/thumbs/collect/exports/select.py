"""Which judgements leave the store, which stay and why: one pass over them, a page of items in memory at a time."""

from __future__ import annotations

import itertools
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from pydantic import Field
from sqlalchemy import select as query

from thumbs.collect.errors import CollectError
from thumbs.collect.exports.judged import (
    Aggregate,
    JudgedItem,
    Opinion,
    agreement,
    answer_on_axis,
    merged,
)
from thumbs.collect.judgement import Counting
from thumbs.collect.projects import read_question
from thumbs.collect.records import Answer, Project, Texts, Vote
from thumbs.collect.screening import FOUND
from thumbs.collect.store import CollectStore
from thumbs.collect.tables import ACCOUNTS, ITEMS

_AT_ONCE = 200
"""Items whose texts are in memory at a time."""
_ALL = Counting()
"""Nothing is left out unseen: what the filters leave out is counted."""
DROPS = (
    *("skip", "question_version", "late", "person", "fast", "axis", "strength", "tie", "per_person"),
    *("chosen_by", "leaks", "filtered", "judgements", "agreement", "aggregate"),
)
"""Why a judgement is not in an export, in the order in which it is asked; the pages have a word for each."""


class Filters(Counting):
    """Which judgements an export holds, and how it shows their strength. The rest stays in the database.

    What does not count in the project (its settings) is not exported either.
    """

    min_active_ms: int = Field(default=0, ge=0)
    """Leave out answers that took less active time, milliseconds."""
    axis: str | None = None
    """The comparison (or the rating) on this axis instead of the overall one."""
    min_strength: int = Field(default=1, ge=1, le=4)
    """Leave out weaker preferences; 2 leaves out `hardly better`, as HH-RLHF did."""
    drop_ties: bool = False
    """Leave out ties."""
    per_person: int | None = Field(default=None, ge=1)
    """At most so many answers of one person, their earliest."""
    chosen_by: Literal["all", "random", "active"] = "all"
    """random: only items that were drawn at random, for unbiased evaluation; active: only those that a policy chose."""
    exclude_leaks: bool = False
    """Leave out items in which a reply says who wrote it."""
    exclude_filtered: bool = False
    """Leave out items in which a filter of the project found something."""
    min_judgements: int = Field(default=1, ge=1)
    """Leave out items with fewer answers that count."""
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """Leave out items of which a smaller share of the answers says what most say."""
    aggregate: Aggregate = "all"
    """all: every answer; majority: what most say of a pair, as one; first: the earliest answer of an item."""
    strength_as: Literal["none", "margin", "weight"] = "none"
    """margin: the mean strength of a pair in favour of the preferred reply, steps of the scale (0 to 4), a tie being 0;
    weight: the mean strength of those who prefer either, as a share of the scale (0.25 to 1; 1 where all say tie).
    """


def with_settings(store: CollectStore, project_id: int, filters: Filters) -> Filters:
    """The filters, and what does not count in the project; raises CollectError if they ask for what does not count."""
    counting = store.projects.settings(project_id)
    versions = {counting.question_version, filters.question_version} - {None}
    if len(versions) > 1:
        raise CollectError(
            f"question_version={filters.question_version}: only answers to version {counting.question_version} count "
            "in this project; change its settings"
        )
    return filters.model_copy(
        update={
            "question_version": next(iter(versions), None),
            "exclude_late": filters.exclude_late or counting.exclude_late,
            "exclude_people": tuple(dict.fromkeys((*filters.exclude_people, *counting.exclude_people))),
        }
    )


def check_filters(store: CollectStore, project: Project, filters: Filters) -> None:
    """Raises CollectError for filters that the project's question cannot answer to."""
    versions = store.projects.versions("questions", project.id)
    questions = [read_question(version.body) for version in versions]
    kind, is_pair = questions[-1].kind, questions[-1].is_pair
    axes = sorted({axis.key for question in questions for axis in question.axes})
    if filters.axis is not None and (filters.axis not in axes or not (is_pair or kind == "rate")):
        raise CollectError(f"axis: nobody was asked about {filters.axis!r}; there are {', '.join(axes) or 'none'}")
    if filters.question_version is not None and filters.question_version > len(versions):
        raise CollectError(f"question_version: there are versions 1 to {len(versions)}")
    for_pairs = ("min_strength", "drop_ties", "strength_as")
    if not is_pair and (given := [name for name in for_pairs if getattr(filters, name) != _default(name)]):
        raise CollectError(f"{', '.join(given)}: only for pairs; this project asks {kind!r}")
    if not is_pair and filters.aggregate == "majority":
        raise CollectError(f"aggregate: a majority is of pairs; this project asks {kind!r}; use all or first")
    if not is_pair and kind != "rank" and filters.min_agreement:
        raise CollectError(f"min_agreement: only for pairs and rankings; this project asks {kind!r}")


class Selection:
    """One pass over the judgements of a project: those that stay, and how many are dropped for which reason of DROPS.

    Only items of the work: what people were tested with is not theirs to teach. The same watermark and filters give
    the same items. Raises CollectError for a filter that does not fit what the project asks.
    """

    def __init__(self, store: CollectStore, project: Project, filters: Filters, watermark: int) -> None:
        check_filters(store, project, filters)
        self.store, self.project, self.filters, self.watermark = store, project, filters, watermark
        self.dropped: Counter[str] = Counter()
        self.rule = store.votes.rule(project.id, filters)
        versions = store.projects.versions("questions", project.id)
        self.questions = {version.id: read_question(version.body) for version in versions}
        guidelines = store.projects.versions("guidelines", project.id)
        self.guidelines = {version.id: version.version for version in guidelines}
        with store.db.reading() as db:
            self.handles = {row.id: row.handle for row in db.execute(query(ACCOUNTS.c.id, ACCOUNTS.c.handle))}
        if unknown := set(filters.exclude_people) - set(self.handles.values()):
            raise CollectError(f"exclude_people: there is nobody called {', '.join(sorted(unknown))}")
        self.last: Mapping[int, int] = {}

    def items(self, most_items: int | None = None) -> Iterator[JudgedItem]:
        """The items that have opinions left, by number, each with those opinions, oldest first; `most_items` looks at
        the first ones alone.
        """
        if self.filters.per_person is not None:
            self.last = self._last_allowed(self.filters.per_person)
        for page in self._pages(most_items):
            texts = self.store.items.texts(page)
            of_page = self.store.votes.of_items(page, self.watermark, _ALL)
            for item, votes in itertools.groupby(of_page, key=lambda vote: vote.item):
                judged = self.judged(texts[item], tuple(votes))
                if judged is not None:
                    yield judged

    def answered(self, after: int, limit: int) -> list[int]:
        """The next items of the work that have answers, by number."""
        answered = (ITEMS.c.project_id == self.project.id, ITEMS.c.role == "work", ITEMS.c.n_done + ITEMS.c.n_skip > 0)
        found = query(ITEMS.c.id).where(*answered, ITEMS.c.id > after).order_by(ITEMS.c.id)
        return self.store.db.values(found.limit(limit))

    def opinion(self, vote: Vote) -> Opinion | str:
        """What a judgement says when it leaves, or the first reason of DROPS why it stays."""
        asked = self.filters
        if vote.answer.verdict == "skip":
            return "skip"
        if (reason := self.rule.why_not(vote)) is not None:
            return reason
        if vote.active_ms < asked.min_active_ms:
            return "fast"
        answer = self._restated(vote)
        if answer is None:
            return "axis"
        if answer.verdict == "prefer" and abs(answer.strength) < asked.min_strength:
            return "strength"
        if asked.drop_ties and answer.verdict == "tie":
            return "tie"
        question = self.questions[vote.question]
        return Opinion(vote, self.handles[vote.account], answer, self.guidelines[vote.guideline], question)

    def _restated(self, vote: Vote) -> Answer | None:
        """The answer as it leaves; None if it says nothing of the axis asked for."""
        question, axis = self.questions[vote.question], self.filters.axis
        if axis is not None and question.is_pair:
            return answer_on_axis(vote.answer, axis)
        if axis is not None and not any(axis in ratings for ratings in vote.answer.ratings):
            return None
        return vote.answer

    def judged(self, texts: Texts, votes: Sequence[Vote]) -> JudgedItem | None:
        """The item with the opinions that are left; None if there are none."""
        kept = []
        for vote in votes:
            opinion = self.opinion(vote)
            if isinstance(opinion, Opinion) and vote.judgement > self.last.get(vote.account, vote.judgement):
                opinion = "per_person"
            if isinstance(opinion, Opinion):
                kept.append(opinion)
            else:
                self.dropped[opinion] += 1
        if not kept:
            return None
        question = self.questions[max(opinion.vote.question for opinion in kept)]
        judged = JudgedItem(
            **vars(texts), id=f"{self.project.slug}/{texts.item}", question=question, opinions=tuple(kept)
        )
        if (reason := self._item_fault(judged)) is not None:
            self.dropped[reason] += len(kept)
            return None
        one = merged(judged, self.filters.aggregate)
        if folded := len(judged.opinions) - len(one.opinions):
            self.dropped["aggregate"] += folded
        return one

    def _item_fault(self, judged: JudgedItem) -> str | None:
        asked = self.filters
        policy = judged.chosen_by.get("policy", "")
        way = policy if policy in ("random", "file", "") else "active"
        reasons = {
            "chosen_by": asked.chosen_by not in ("all", way),
            "leaks": asked.exclude_leaks and bool(judged.chosen_by.get("leaks")),
            "filtered": asked.exclude_filtered and bool(judged.chosen_by.get(FOUND)),
            "judgements": len(judged.opinions) < asked.min_judgements,
            "agreement": asked.min_agreement > 0 and agreement(judged) < asked.min_agreement,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    def _pages(self, most_items: int | None) -> Iterator[list[int]]:
        after, left = 0, most_items
        while page := self.answered(after, _AT_ONCE if left is None else min(_AT_ONCE, left)):
            yield page
            after, left = page[-1], None if left is None else left - len(page)

    def _last_allowed(self, most: int) -> dict[int, int]:
        """The newest judgement that counts, for each person with more judgements than `most`."""
        given: dict[int, array[int]] = defaultdict(lambda: array("q"))
        for page in self._pages(None):
            for vote in self.store.votes.of_items(page, self.watermark, _ALL):
                if isinstance(self.opinion(vote), Opinion):
                    given[vote.account].append(vote.judgement)
        return {account: sorted(numbers)[most - 1] for account, numbers in given.items() if len(numbers) > most}


def _default(name: str) -> object:
    return Filters.model_fields[name].default
