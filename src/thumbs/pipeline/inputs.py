"""The data that a config names, read before a run begins: lengths, splits, and what is to be told of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thumbs.config.data import DataConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.data.load import (
    Loaded,
    load_conversations,
    load_graded,
    load_pairs,
    load_prompts,
    load_replies,
    load_safety,
)
from thumbs.data.messages import Conversation
from thumbs.data.replies import JudgedReply
from thumbs.data.splits import is_heldout, split_fault
from thumbs.data.tokenizers import Tokenizer, training_sequences
from thumbs.errors import DataError
from thumbs.records import Message, Preference, Prompt, SafetyPair


@dataclass(frozen=True)
class Inputs:
    """The data that a config names; None if it names none.

    Means in tokens: reply_tokens of an assistant's turn, pair_prompt_tokens of the prompt that a pair's sides share.
    """

    conversations: Loaded[Conversation] | None
    pairs: Loaded[Preference] | None
    pair_prompts: Loaded[Prompt] | None
    prompts: Loaded[Prompt] | None
    evaluation_prompts: Loaded[Prompt] | None
    reply_tokens: float | None
    pair_prompt_tokens: float | None = None
    group_prompts: Loaded[Prompt] | None = None
    rejection_prompts: Loaded[Prompt] | None = None
    online_prompts: Loaded[Prompt] | None = None
    judged: Loaded[JudgedReply] | None = None
    graded: Loaded[Any] | None = None
    marked: Loaded[SafetyPair] | None = None
    sequences: Sequence[int] = ()
    """How many sequences SFT makes of each conversation."""

    def reply_length(self, sampling: SamplingConfig) -> float:
        """Tokens a sampled reply is expected to have: as long as the demonstrations, which SFT imitates."""
        limit = float(sampling.max_new_tokens)
        return limit if self.reply_tokens is None else min(self.reply_tokens, limit)


def read_inputs(config: PipelineConfig, tokenizer: Tokenizer) -> Inputs:
    """Loads all data of a config; raises DataError if a run would refuse to start."""

    def prompts(source: DataConfig | None) -> Loaded[Prompt] | None:
        return None if source is None else load_prompts(source, tokenizer, config.system)

    labels, method = config.labels, config.direct
    pairs, scorer = labels.data if labels else None, config.reward_model
    conversations = load_conversations(config.sft.data, tokenizer, config.system) if config.sft else None
    preferred = load_pairs(pairs, labels.form, tokenizer, config.system) if labels and pairs else None
    turns = [training_sequences(tokenizer, row) for row in conversations.rows] if conversations else []
    return Inputs(
        conversations=conversations,
        sequences=[len(sequences) for sequences in turns],
        pairs=preferred,
        pair_prompts=prompts(labels.prompts) if labels and pairs is None else None,
        prompts=prompts(config.ppo.prompts if config.ppo else None),
        evaluation_prompts=prompts(config.evaluation.prompts if config.evaluation else None),
        rejection_prompts=prompts(config.rejection.prompts if config.rejection else None),
        reply_tokens=_assistant_turn(conversations.rows, turns) if conversations else None,
        pair_prompt_tokens=mean([len(tokenizer.render_prompt(r.prompt)) for r in preferred.rows])
        if preferred
        else None,
        group_prompts=prompts(config.group.prompts if config.group else None),
        online_prompts=prompts(method.online.prompts if method and method.online else None),
        graded=load_graded(scorer.data, scorer.form, tokenizer, config.system) if scorer and scorer.data else None,
        marked=load_safety(config.cost_model.data, tokenizer, config.system) if config.cost_model else None,
        judged=load_replies(method.unpaired, tokenizer, config.system) if method and method.unpaired else None,
    )


def told_of(inputs: Inputs) -> tuple[str, ...]:
    """Lines on each source of which rows are left out or keys ignored."""
    sources = [item for item in vars(inputs).values() if isinstance(item, Loaded)]
    told = [item.summary() for item in sources if item.ignored or item.problems]
    return tuple(dict.fromkeys(line for text in told for line in text.splitlines()))


def check_splits(config: PipelineConfig, inputs: Inputs) -> None:
    """Raises DataError that names every setting whose rows leave nothing to train on, or nothing to hold out."""
    c = config
    splits: list[tuple[str, int, int, float]] = []
    if c.sft is not None and inputs.conversations is not None:
        splits.append(("sft.data", *_sides(inputs.conversations.rows, c.sft.data.holdout), c.sft.data.holdout))
    source = c.labels
    if source is not None and (c.reward_model is not None or c.direct is not None):
        name, data = ("labels.data", source.data) if source.data else ("labels.prompts", source.prompts)
        if data is not None:
            splits.append((name, *split_pairs(c, inputs), data.holdout))
    if c.reward_model is not None and c.reward_model.data is not None and inputs.graded is not None:
        prompts = [row.prompt for row in inputs.graded.rows]
        splits.append(("reward_model.data", *_sides(prompts, c.reward_model.data.holdout), c.reward_model.data.holdout))
    if c.cost_model is not None and inputs.marked is not None:
        held = c.cost_model.data.holdout
        splits.append(("cost_model.data", *_sides([row.prompt for row in inputs.marked.rows], held), held))
    if c.direct is not None and c.direct.unpaired is not None and inputs.judged is not None:
        held = c.direct.unpaired.holdout
        splits.append(("direct.unpaired", *_sides([row.messages for row in inputs.judged.rows], held), held))
    if faults := [fault for split in splits if (fault := split_fault(*split))]:
        raise DataError("\n".join(faults))


def _sides(prompts: Sequence[Sequence[Message]], fraction: float) -> tuple[int, int]:
    """(training, held-out) rows."""
    held = sum(is_heldout(prompt, fraction) for prompt in prompts)
    return len(prompts) - held, held


def split_pairs(config: PipelineConfig, inputs: Inputs) -> tuple[int, int]:
    """(training, held-out) pairs; for pairs still to be sampled the most there can be."""
    c = config.labels
    if c is None:
        return 0, 0
    if c.data is not None and inputs.pairs is not None:
        held = sum(is_heldout(row.prompt, c.data.holdout) for row in inputs.pairs.rows)
        return len(inputs.pairs.rows) - held, held
    if c.prompts is None or inputs.pair_prompts is None:
        return 0, 0
    if c.people is not None:
        asked = (inputs.pair_prompts.rows * c.pairs_per_prompt)[: c.people.pairs]
        held = sum(is_heldout(row.messages, c.prompts.holdout) for row in asked)
        return len(asked) - held, held
    held = sum(is_heldout(row.messages, c.prompts.holdout) for row in inputs.pair_prompts.rows)
    each = min(c.pairs_per_prompt, math.comb(c.replies_per_prompt, 2))
    return (len(inputs.pair_prompts.rows) - held) * each, held * each


def mean(lengths: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return sum(lengths) / len(lengths) if lengths else 0.0


def _assistant_turn(
    rows: Sequence[Conversation], sequences: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]
) -> float:
    """Mean tokens of an assistant's turn, its end token included."""
    turns = sum(message.role == "assistant" and message.trained for row in rows for message in row)
    return sum(float(mask.sum()) for row in sequences for _, mask in row) / max(turns, 1)
