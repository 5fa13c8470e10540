"""The gold of a run; people as the gold get the pairs of an evaluation blind and in a random order."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from thumbs.config.evaluation import EvaluationConfig
from thumbs.config.labels import PeopleConfig
from thumbs.data.preferences import preferred
from thumbs.engine.base import Engine
from thumbs.errors import ConfigError
from thumbs.evaluation.gold import ANSWERS, Gold, open_gold
from thumbs.records import Generator, Message, Preference, Reply
from thumbs.rollout.rounds import seed_of
from thumbs.stages.people import Candidate, Labels, LabelSource

BLIND = Generator("model", "evaluation")
"""Who is said to have written a reply."""


@dataclass(frozen=True)
class PeopleJudge:
    """Asks people which of two replies is better; nothing tells which system wrote one."""

    ask: Callable[[Iterator[Candidate]], Labels]
    seed: int

    def both_orders(
        self, pairs: Sequence[tuple[Sequence[Message], str, str]]
    ) -> list[tuple[float | None, float | None]]:
        """P(first is better), the mean of the verdicts, in the order in which people saw the pair; they get the pairs
        in a random order, so that those that are judged are a sample of all.
        """
        turned = [seed_of(self.seed, "blind", number) % 2 == 1 for number in range(len(pairs))]
        order = np.random.default_rng(seed_of(self.seed, "people")).permutation(len(pairs))
        labels = self.ask(self._candidate(number, pairs[number], turned=turned[number]) for number in order.tolist())
        said = {int(pair.id): preferred(pair) for pair in labels.pairs}
        found: list[tuple[float | None, float | None]] = []
        for number, is_turned in enumerate(turned):
            better = said.get(number)
            found.append((None, None if better is None else 1 - better) if is_turned else (better, None))
        return found

    def _candidate(self, number: int, pair: tuple[Sequence[Message], str, str], *, turned: bool) -> Candidate:
        prompt, first, second = pair
        shown = (second, first) if turned else (first, second)
        replies = (Reply(shown[0], BLIND), Reply(shown[1], BLIND))
        return Candidate(Preference(str(number), tuple(prompt), replies, ()), {"by": "evaluation"})


def gold_of(
    c: EvaluationConfig, engine: Engine, run: Path, people: LabelSource | None, iteration: int, seed: int
) -> Gold | None:
    """What the evaluation of a run trusts; None if its section names nothing. people: who asks them."""
    if c.gold is None or c.gold.people is None:
        return None if c.gold is None else open_gold(c.gold, engine, run / ANSWERS)
    if people is None:
        raise ConfigError("evaluation.gold.people needs somebody who asks them; `thumbs run` and `thumbs eval` do")
    return PeopleJudge(partial(people.ask, own_project(c.gold.people, run), run, iteration), seed)


def own_project(settings: PeopleConfig, run: Path) -> PeopleConfig:
    """The settings with a project of the evaluation's own, if they name none: its pairs are no training data."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{run.resolve().name}-evaluation".lower()).strip("-")
    return settings if settings.project else settings.model_copy(update={"project": name[-64:].strip("-")})
