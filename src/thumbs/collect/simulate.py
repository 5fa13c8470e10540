"""People made of a known judge, known mistakes and known biases, to check what is learned from people."""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from thumbs.collect.errors import CollectError
from thumbs.collect.question import Axis, Question
from thumbs.collect.records import Effort, Task
from thumbs.collect.store import CollectStore
from thumbs.data.annotators import STRENGTH_STEPS
from thumbs.data.sources import canonical_json
from thumbs.errors import NonFiniteError
from thumbs.records import Message

_LEAST_MS = 500


@dataclass(frozen=True)
class SimulatedPerson:
    """Answers tasks by a gold score of each reply, `judge(messages, reply)`, and nothing but what the task shows.

    noise: probability that a preference is turned round, that neighbours in a ranking change places, or that a rating
    is one off. tie_below: replies whose scores differ by less are equal (score units). left_bias: probability of taking
    the reply shown first whatever it says, in pairs and rankings; the first is then preferred 0.5 + left_bias / 2 of
    the time. length_bias: score units that 100 more characters are worth. skip: share of tasks passed on. chars_per_s:
    reading speed. What is drawn depends on (seed, name, messages, set of replies) only: neither on the order in which
    tasks come nor on the order in which replies are shown.
    """

    name: str
    judge: Callable[[Sequence[Message], str], float]
    seed: int = 0
    noise: float = 0.0
    tie_below: float = 0.0
    left_bias: float = 0.0
    length_bias: float = 0.0
    skip: float = 0.0
    chars_per_s: float = 20.0

    def answer(self, task: Task) -> tuple[dict[str, Any], Effort]:
        """The body, in display order as question.read_answer takes it, and the time that it took.

        The strength is the difference of scores in the steps of STRENGTH_STEPS, each axis says the same; a reversed
        question is answered by the lower score. A rating is
        the middle of its scale, and one more or less for each step that the score is above or below 0. Raises
        CollectError for kinds where something must be written, NonFiniteError if a score is not a number.
        """
        question, chance = Question.model_validate(task.question), self._chance(task)
        effort = self._effort(task, chance)
        if task.kind not in ("pair", "chat", "rank", "rate"):
            raise CollectError(f"simulated people cannot answer a task of kind {task.kind!r}; they judge replies")
        passed_on = chance.random() < self.skip
        if passed_on and question.skip_reasons:
            return {"verdict": "skip", "skip_reason": question.skip_reasons[0]}, effort
        scores = [self._score(task, reply) for reply in task.replies]
        say = {"rank": self._rank, "rate": self._rate}.get(task.kind, self._compare)
        body = say(question, task.replies, scores, chance)
        if question.reason == "required":
            body["reason"] = f"as {self.name} would say"
        return body, effort

    def _compare(
        self, question: Question, replies: Sequence[str], scores: Sequence[float], chance: random.Random
    ) -> dict[str, Any]:
        mistaken, by_place = chance.random() < self.noise, chance.random() < self.left_bias
        undecided = min(replies) if chance.random() < 0.5 else max(replies)
        scores = [-score if question.direction == "more_harmful" else score for score in scores]
        difference = scores[1] - scores[0]
        equal = difference == 0 or abs(difference) < self.tie_below
        strength = 1 + bisect_right(STRENGTH_STEPS, abs(difference))
        if by_place:
            signed = -strength
        elif not equal:
            signed = strength if (difference > 0) != mistaken else -strength
        elif question.tie:
            signed = 0
        else:
            signed = -1 if replies[0] == undecided else 1
        body: dict[str, Any] = {"verdict": "prefer", "strength": signed} if signed else {"verdict": "tie"}
        if question.axes:
            better = -signed if question.direction == "more_harmful" else signed
            body["axes"] = {axis.key: -better if question.low_is_best(axis) else better for axis in question.axes}
        return body

    def _rank(
        self, question: Question, replies: Sequence[str], scores: Sequence[float], chance: random.Random
    ) -> dict[str, Any]:
        scores = [-score if question.direction == "more_harmful" else score for score in scores]
        order = sorted(range(len(replies)), key=lambda place: (-scores[place], replies[place]))
        for at in range(len(order) - 1):
            if chance.random() < self.noise:
                order[at], order[at + 1] = order[at + 1], order[at]
        ranks, rank = [1] * len(replies), 1
        for above, place in pairwise(order):
            difference = abs(scores[above] - scores[place])
            rank += not (difference == 0 or difference < self.tie_below)
            ranks[place] = rank
        if chance.random() < self.left_bias:
            others = sorted(set(ranks[1:]))
            ranks = [1, *(others.index(rank) + 2 for rank in ranks[1:])]
        return {"verdict": "rank", "ranks": ranks}

    def _rate(
        self, question: Question, replies: Sequence[str], scores: Sequence[float], chance: random.Random
    ) -> dict[str, Any]:
        off = {reply: [self._slip(chance) for _ in question.axes] for reply in sorted(replies)}
        ratings = []
        for reply, score in zip(replies, scores, strict=True):
            level = int(math.copysign(bisect_right(STRENGTH_STEPS, abs(score)), score))
            ratings.append(
                {
                    axis.key: _rated(axis, -level if question.low_is_best(axis) else level, slip)
                    for axis, slip in zip(question.axes, off[reply], strict=True)
                }
            )
        return {"verdict": "rate", "ratings": ratings}

    def _slip(self, chance: random.Random) -> int:
        return chance.choice((-1, 1)) if chance.random() < self.noise else 0

    def _score(self, task: Task, reply: str) -> float:
        score = self.judge(task.messages, reply) + self.length_bias * len(reply) / 100
        if not math.isfinite(score):
            raise NonFiniteError(f"{self.name}, task {task.assignment}: the score of a reply is {score}")
        return score

    def _chance(self, task: Task) -> random.Random:
        seen = [[message.role, message.content] for message in task.messages]
        text = canonical_json([self.seed, self.name, seen, sorted(task.replies)])
        digest = hashlib.sha256(text.encode("ascii")).digest()
        return random.Random(int.from_bytes(digest, "big"))  # noqa: S311 - a draw, no secret

    def _effort(self, task: Task, chance: random.Random) -> Effort:
        """Reading everything once, within a factor of about two, and as long again away from the page now and then."""
        chars = sum(map(len, task.replies)) + sum(len(message.content) for message in task.messages)
        active = max(_LEAST_MS, round(1000 * chars / self.chars_per_s * chance.lognormvariate(0, 0.35)))
        return Effort(active, active * chance.choice((1, 1, 2)))


def _rated(axis: Axis, level: int, slip: int) -> int:
    """The middle of the scale, moved by a level and a slip, within the scale."""
    return min(axis.high, max(axis.low, (axis.low + axis.high) // 2 + level + slip))


def work_through(
    store: CollectStore, project_id: int, account_id: int, person: SimulatedPerson, most: int | None = None
) -> int:
    """Lets the person work under that account until there is nothing left for them, or `most` tasks are answered;
    returns how many were, skips among them.
    """
    answered = 0
    while most is None or answered < most:
        task = store.work.claim(project_id, account_id)
        if isinstance(task, str):
            break
        body, effort = person.answer(task)
        store.work.submit(task.assignment, account_id, f"simulated-{task.assignment}", body, effort)
        answered += 1
    return answered
