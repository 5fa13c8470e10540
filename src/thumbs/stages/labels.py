"""Pairs for the reward model: replies sampled from the SFT model, judged by annotators, kept in a preference store.

The store and its format are those of people's labels (stages/people.py). A labelling run that was interrupted goes on
with the group of prompts in which it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thumbs.config.labels import LabelsConfig
from thumbs.data.annotators import Annotator
from thumbs.data.pair_choice import usable_pairs
from thumbs.data.preferences import PREFERENCES, PreferenceStore, preferred
from thumbs.engine.base import ModelSpec
from thumbs.records import Generator, Preference, Prompt, Reply, Rollout
from thumbs.rollout.rounds import collect, seed_of
from thumbs.rollout.sampler import Sampler
from thumbs.rollout.scheduler import MAX_ROWS
from thumbs.stages.context import Context
from thumbs.tracking.progress import Progress


def sample_labels(
    context: Context,
    config: LabelsConfig,
    start: Path | None,
    prompts: Sequence[Prompt],
    annotators: Sequence[Annotator],
    at: str,
) -> dict[str, Any]:
    """Samples, judges and stores pairs for every prompt; returns the counts. `at` stamps the judgements (ISO 8601)."""
    store = PreferenceStore(store_path(context))
    policy = context.engine.create(ModelSpec("sft", context.model, ("lm",), start, trainable=False, seed=context.seed))
    sampler = context.engine.snapshot(policy)
    with Progress("labels", len(prompts), ("pairs", "ties")) as bar:
        at_once = max(MAX_ROWS // config.replies_per_prompt, 1)  # all that decode together
        first = first_unfinished(store, prompts, at_once)
        bar.advance(first)
        for begin in range(first, len(prompts), at_once):
            group = prompts[begin : begin + at_once]
            replies = sample_replies(context, config, sampler, start, group)
            for number, (prompt, answers) in enumerate(zip(group, replies, strict=True), start=begin):
                store.append(make_pairs(config, prompt, answers, annotators, number, at))
            bar.advance(len(group), pairs=len(store))
    context.engine.close(policy)
    judged = [preferred(preference) for preference in store.load()]
    return {"pairs": len(judged), "ties": sum(p == 0.5 for p in judged) / max(len(judged), 1)}


def first_unfinished(store: PreferenceStore, prompts: Sequence[Prompt], at_once: int) -> int:
    """Number of the first prompt of the group, of `at_once` prompts, where an interrupted run stopped.

    Pairs are stored in the order of the prompts, so the groups before the last stored pair are whole. That group is
    sampled again as a whole, since a batch of another size may round differently; the store skips the pairs it has.
    """
    stored = {preference_id.rpartition("/")[0] for preference_id in store.ids()}
    last = max((number for number, prompt in enumerate(prompts) if prompt.id in stored), default=0)
    return last // at_once * at_once


def store_path(context: Context) -> Path:
    """Where the stage keeps its preferences."""
    return context.folder.path / PREFERENCES


def sample_replies(
    context: Context,
    config: LabelsConfig,
    sampler: Sampler,
    start: Path | None,
    prompts: Sequence[Prompt],
    first: int = 0,
) -> list[list[Reply]]:
    """replies_per_prompt replies to each prompt, each with the model, checkpoint, settings and seed that made it.

    first: the number of the first of them; other numbers are other draws.
    """
    n = config.replies_per_prompt
    wanted = [prompt for prompt in prompts for _ in range(n)]
    seeds = [seed_of(context.seed, "preferences", prompt.id, first + draw) for prompt in prompts for draw in range(n)]
    rollouts = collect(sampler, wanted, context.tokenizer, config.sampling, seeds)
    settings, checkpoint = config.sampling.model_dump(mode="json"), name_in_run(start)

    def reply(rollout: Rollout, seed: int) -> Reply:
        return Reply(
            rollout.text,
            Generator("model", context.model.name, checkpoint, settings, seed),
            rollout.stop_reason,
        )

    made = [reply(rollout, seed) for rollout, seed in zip(rollouts, seeds, strict=True)]
    return [made[i * n : (i + 1) * n] for i in range(len(prompts))]


def name_in_run(checkpoint: Path | None) -> str:
    """`sft/model`, `iteration-2/ppo/model` and so on; empty for the base model."""
    if checkpoint is None:
        return ""
    parts = checkpoint.parts[-3:]
    return "/".join(parts if parts[0].startswith("iteration-") else parts[-2:])


def make_pairs(
    config: LabelsConfig,
    prompt: Prompt,
    replies: Sequence[Reply],
    annotators: Sequence[Annotator],
    number: int,
    at: str,
) -> list[Preference]:
    """Up to pairs_per_prompt judged pairs of different, non-empty replies; disjoint pairs come first."""
    pairs = []
    for place, (i, j) in enumerate(usable_pairs(replies)[: config.pairs_per_prompt]):
        item = number * config.pairs_per_prompt + place
        annotator = annotators[item % len(annotators)]
        judgement = annotator.judge(prompt.messages, replies[i].text, replies[j].text, item, at)
        pairs.append(Preference(f"{prompt.id}/{i}-{j}", prompt.messages, (replies[i], replies[j]), (judgement,)))
    return pairs
