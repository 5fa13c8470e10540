"""Keeps tasks ahead of people: samples replies of a model while they judge, and chooses which two to ask about."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import numpy as np

from thumbs.collect.errors import CollectError
from thumbs.collect.question import Question
from thumbs.collect.records import NewItem
from thumbs.collect.store import CollectStore
from thumbs.config.sampling import SamplingConfig
from thumbs.data.pair_choice import Active, choose_pair, first_pair, usable_pairs
from thumbs.records import Message, Prompt, Reply
from thumbs.rollout.rounds import seed_of

log = logging.getLogger(__name__)

Score = Callable[[Sequence[Message], Sequence[Reply]], np.ndarray]
"""Raw scores [replies, members] of a reward model."""

MOST_IN_VAIN = 50
"""Prompts in a row whose replies cannot be compared before the supply gives up."""
_POLL_S = 0.5


class ReplySource(Protocol):
    """Something that writes replies: a run's stage, a model, a test's list."""

    @property
    def name(self) -> str:
        """Who it is, for terminals and logs; people who judge never see it."""
        ...

    def write(self, messages: Sequence[Message], n: int, seed: int) -> list[Reply]:
        """n replies to the messages, each with its generator; the same seed gives the same replies."""
        ...


@dataclass(frozen=True)
class SupplyPlan:
    """How a project is supplied. question, overlap: of the project, where it is made; ahead: judgements that are kept
    open; replies: how many are drawn for a task, of which pairs take two: the first two, or with `active` those that a
    reward model's scores choose, but for `random_share` of the tasks.
    """

    question: Question = field(default_factory=Question)
    overlap: int = 1
    ahead: int = 20
    replies: int = 2
    active: Active | None = None
    random_share: float = 0.25
    sampling: SamplingConfig | None = None
    seed: int = 0


class ItemSupply:
    """A thread that keeps at least `plan.ahead` judgements open in a project, prompt after prompt, round after round.

    Draw d answers prompt d mod n with a seed made of (seed, prompt, d div n); items remember their draw, so another
    supply over the same project, source and seed goes on after the last one. score: of a reward model.
    """

    def __init__(
        self,
        store: CollectStore,
        project_id: int,
        source: ReplySource,
        prompts: Sequence[Prompt],
        plan: SupplyPlan | None = None,
        *,
        score: Score | None = None,
    ) -> None:
        plan = plan or SupplyPlan()
        if not prompts:
            raise CollectError("there are no prompts to sample replies for")
        if plan.active is not None and score is None:
            raise CollectError(f"active={plan.active} goes by a reward model's scores, and {source.name} has none")
        self._store, self._project, self.source, self._prompts = store, project_id, source, prompts
        self._plan, self._score = plan, score
        self._series = f"{source.name} seed {plan.seed}"
        self._draws = count(self._drawn() + 1)
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._work, name="supply", daemon=True)
        self.error: Exception | None = None
        """Why it ended before it was closed."""

    def __enter__(self) -> ItemSupply:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, after the reply that is being written."""
        self._stop.set()
        self._thread.join()

    def fill(self) -> int:
        """Adds tasks until `ahead` judgements are open; returns how many tasks. Nothing while the project rests."""
        added, in_vain = 0, 0
        while not self._stop.is_set() and self._is_wanted():
            new = self._draw(next(self._draws))
            added, in_vain = added + new, 0 if new else in_vain + 1
            if in_vain >= MOST_IN_VAIN:
                raise CollectError(
                    f"{self.source.name}: the replies to {in_vain} prompts in a row were empty, equal or asked about "
                    "already; raise the temperature, take another model, or give more prompts"
                )
        return added

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self.fill()
                self._stop.wait(_POLL_S)
        except Exception as error:  # whoever waits for tasks must hear of it, whatever it is
            self.error = error
            log.exception("no more replies are sampled")

    def _is_wanted(self) -> bool:
        is_open = self._store.projects.get(self._project).state == "open"
        return is_open and self._store.items.open_work(self._project) < self._plan.ahead

    def _draw(self, number: int) -> int:
        """Samples draw `number` and adds its task; returns 1 where there is a new one."""
        turn, place = divmod(number, len(self._prompts))
        prompt = self._prompts[place]
        replies = self.source.write(prompt.messages, self._plan.replies, seed_of(self._plan.seed, prompt.id, turn))
        found = self._choose(prompt, replies, turn)
        if found is None:
            return 0
        chosen, chosen_by = found
        made_by = {**chosen_by, "series": self._series, "draw": number}
        item = NewItem(prompt.messages, chosen, prompt.id, chosen_by=made_by)
        return self._store.items.add(self._project, [item]).created

    def _choose(
        self, prompt: Prompt, replies: Sequence[Reply], turn: int
    ) -> tuple[tuple[Reply, ...], Mapping[str, Any]] | None:
        """Replies that make a task of the project's kind, and how they were chosen; None if these make none."""
        low, high = self._store.projects.question(self._project)[1].replies
        if high != 2:
            different = {reply.text.strip(): reply for reply in replies if reply.text.strip()}
            several = tuple(different.values())[:high]
            return (several, {"policy": "random"}) if len(several) >= low else None
        pairs = usable_pairs(replies)
        if not pairs:
            return None
        choice, active, share = first_pair(pairs), self._plan.active, self._plan.random_share
        if active is not None and self._score is not None:
            seed = seed_of(self._plan.seed, "choice", prompt.id, turn)
            choice = choose_pair(pairs, self._score(prompt.messages, replies), active, share, seed)
        return tuple(replies[place] for place in choice.places), choice.chosen_by

    def _drawn(self) -> int:
        """The newest draw of this series in the project, -1 before the first."""
        items = self._store.items.all(self._project)
        return max((one.chosen_by["draw"] for one in items if one.chosen_by.get("series") == self._series), default=-1)
