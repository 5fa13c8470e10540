"""Pairs for the reward model, judged by people: replies sampled from the policy, asked, written as preferences.

What asks is handed in (`thumbs.collect.desk.Desk`): the labels live in a database outside of the run folder, and know
their pairs by content, so a run that is interrupted, or made anew with the same seed, finds what was judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thumbs.config.labels import LabelsConfig, PeopleConfig
from thumbs.data.pair_choice import Choice, choose_pair, first_pair, usable_pairs
from thumbs.data.preferences import preference_to_json, preferred
from thumbs.engine.base import ModelSpec
from thumbs.records import Preference, Prompt, Reply
from thumbs.rewards.trained import RawScorer
from thumbs.rollout.rounds import seed_of
from thumbs.rollout.sampler import Sampler
from thumbs.rollout.scheduler import MAX_ROWS
from thumbs.stages.context import Context
from thumbs.stages.labels import sample_replies, store_path
from thumbs.tracking.files import write_json, write_text

PEOPLE = "people.json"
"""What a stage tells of its labels besides the preferences: project, database, items and judgements by pair."""


@dataclass(frozen=True)
class Candidate:
    """A pair without judgements, and how it was chosen."""

    pair: Preference
    chosen_by: Mapping[str, Any]


@dataclass(frozen=True)
class Labels:
    """What people said: pairs with at least one verdict, in the order of the candidates.

    items: of each pair its item in the project; judgements: the ids of those that stand.
    """

    pairs: list[Preference]
    project: str
    database: str
    items: dict[str, int] = field(default_factory=dict)
    judgements: dict[str, list[int]] = field(default_factory=dict)


class LabelSource(Protocol):
    """Whoever asks people."""

    def ask(self, settings: PeopleConfig, run: Path, iteration: int, candidates: Iterator[Candidate]) -> Labels:
        """Puts candidates before people until settings.pairs are judged, or somebody says that it is enough."""
        ...


def ask_people(
    context: Context,
    config: LabelsConfig,
    start: Path | None,
    prompts: Sequence[Prompt],
    ask: Callable[[Iterator[Candidate]], Labels],
    choose: Callable[[Prompt, Sequence[Reply], int], Choice | None],
    iteration: int = 1,
) -> dict[str, Any]:
    """Samples pairs of the policy `start`, has them judged, stores them; returns the counts.

    choose(prompt, replies, round) picks a prompt's pair, or none. The stage's files are written at its end, as a whole.
    """
    policy = context.engine.create(ModelSpec("sft", context.model, ("lm",), start, trainable=False, seed=context.seed))
    sampler = context.engine.snapshot(policy)
    rounds = range((iteration - 1) * config.pairs_per_prompt, iteration * config.pairs_per_prompt)
    labels = ask(candidates(context, config, sampler, start, prompts, choose, rounds))
    context.engine.close(policy)
    lines = [json.dumps(preference_to_json(pair), ensure_ascii=False, allow_nan=False) for pair in labels.pairs]
    write_text(store_path(context), "".join(f"{line}\n" for line in lines))
    found = asdict(labels)
    del found["pairs"]
    write_json(context.folder.path / PEOPLE, found)
    return counts(labels)


def counts(labels: Labels) -> dict[str, Any]:
    """How many pairs, with which verdicts, in how many judgements by whom."""
    judgements = [judgement for pair in labels.pairs for judgement in pair.judgements if judgement.verdict != "skip"]
    better = [preferred(pair) for pair in labels.pairs]
    return {
        "pairs": len(labels.pairs),
        "ties": sum(p == 0.5 for p in better) / max(len(better), 1),
        "undecided": sum(p is None for p in better),
        "labels": len(judgements),
        "by": dict(Counter(judgement.annotator for judgement in judgements)),
        "project": labels.project,
    }


def candidates(
    context: Context,
    config: LabelsConfig,
    sampler: Sampler,
    start: Path | None,
    prompts: Sequence[Prompt],
    choose: Callable[[Prompt, Sequence[Reply], int], Choice | None],
    rounds: Sequence[int],
) -> Iterator[Candidate]:
    """A pair of each prompt, then a second one of each, of other replies, and so on.

    Replies are drawn when they are needed, of the same groups of prompts and with the same seeds in every run; round 0
    has the replies that simulated annotators would get. A later iteration has later rounds: with the seeds of the first
    one, a policy that hardly changed would say the same again.
    """
    at_once = max(MAX_ROWS // config.replies_per_prompt, 1)
    for number in rounds:
        first = number * config.replies_per_prompt
        for begin in range(0, len(prompts), at_once):
            group = prompts[begin : begin + at_once]
            sampled = sample_replies(context, config, sampler, start, group, first)
            for prompt, replies in zip(group, sampled, strict=True):
                choice = choose(prompt, replies, number)
                if choice is not None:
                    i, j = choice.places
                    name = f"{prompt.id}/{first + i}-{first + j}"
                    yield Candidate(Preference(name, prompt.messages, (replies[i], replies[j]), ()), choice.chosen_by)


def choose_first(prompt: Prompt, replies: Sequence[Reply], number: int) -> Choice | None:
    """The first two replies that can be compared."""
    pairs = usable_pairs(replies)
    return first_pair(pairs) if pairs else None


def choose_informative(
    settings: PeopleConfig, scores: RawScorer, heldout: Callable[[Prompt], bool], seed: int
) -> Callable[[Prompt, Sequence[Reply], int], Choice | None]:
    """What chooses pairs as settings.active says; of a prompt that is held out, always as they were drawn.

    An accuracy on pairs that were chosen for being hard would say little of the pairs that a policy meets.
    """
    assert settings.active is not None  # noqa: S101
    active = settings.active

    def choose(prompt: Prompt, replies: Sequence[Reply], number: int) -> Choice | None:
        pairs = usable_pairs(replies)
        if not pairs or heldout(prompt):
            return choose_first(prompt, replies, number)
        drawn = seed_of(seed, "choice", prompt.id, number)
        found = scores([(prompt.messages, reply) for reply in replies])
        return choose_pair(pairs, found, active, settings.random_share, drawn)

    return choose
