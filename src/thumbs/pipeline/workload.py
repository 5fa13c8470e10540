"""How much work a config asks for: its data, and how many tokens each stage trains on, reads and samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thumbs.config.data import DataConfig
from thumbs.config.direct import DirectConfig, OnlineConfig
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
from thumbs.records import Message, Preference, Prompt, Ranking, SafetyPair
from thumbs.rollout.scheduler import MAX_ROWS


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


@dataclass(frozen=True)
class StageWork:
    """What a stage does, tokens unless said otherwise. rows, held: data rows for training and held out (or evaluated).

    trained: through forward and backward; read: through a forward; new: seen for the first time, what the sequences
    of a batch begin with in common once, as in the other two; sampled: decoded,
    `sampling_rows` sequences at a time; step_tokens: trained in one optimizer step (steps) on average; snapshots:
    copies of the weights made to sample from.
    """

    stage: str
    rows: int
    held: int = 0
    steps: int = 0
    trained: float = 0.0
    read: float = 0.0
    new: float = 0.0
    sampled: float = 0.0
    sampling_rows: int = 0
    snapshots: int = 0

    @property
    def step_tokens(self) -> float:
        return self.trained / self.steps if self.steps else 0.0


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


def work_of(config: PipelineConfig, inputs: Inputs) -> list[StageWork]:
    """Work of the stages that the config has, in their order."""
    stages = (_sft, _labels, _reward_model, _direct, _ppo, _group, _evaluation)
    return [work for stage in stages if (work := stage(config, inputs)) is not None]


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


def _sft(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c, data = config.sft, inputs.conversations
    if c is None or data is None:
        return None
    sides = [is_heldout(row, c.data.holdout) for row in data.rows]
    counts = inputs.sequences or [1] * len(sides)
    trained = sum(count for count, held in zip(counts, sides, strict=True) if not held)
    held, length = sum(counts) - trained, mean(data.lengths)
    steps = math.ceil(trained / c.batch_size) * c.epochs
    return StageWork(
        "sft",
        len(sides) - sum(sides),
        sum(sides),
        steps,
        trained=trained * c.epochs * length,
        read=math.ceil(steps / c.eval_every) * held * length,
        new=(trained + held) * length,
    )


def _labels(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c = config.labels
    if c is None:
        return None
    prompts = inputs.pair_prompts
    if prompts is None:
        return StageWork("labels", *split_pairs(config, inputs))
    replies = len(prompts.rows) * c.replies_per_prompt
    return StageWork(
        "labels",
        *split_pairs(config, inputs),
        read=sum(prompts.lengths),
        new=sum(prompts.lengths),
        sampled=replies * inputs.reply_length(c.sampling),
        sampling_rows=min(replies, MAX_ROWS),
        snapshots=1,
    )


def _reward_model(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c, source = config.reward_model, config.labels
    if c is not None and c.data is not None and inputs.graded is not None:
        held = sum(is_heldout(row.prompt, c.data.holdout) for row in inputs.graded.rows)
        rows, computed = len(inputs.graded.rows) - held, _tokens_of_a_row(inputs.graded)
    elif c is not None and source is not None:
        rows, held = split_pairs(config, inputs)
        computed = _tokens_of_a_pair(config, inputs)
    else:
        return None
    steps = math.ceil(rows / c.batch_size) * c.epochs
    evaluations = math.ceil(steps / c.eval_every)
    return StageWork(
        "reward_model",
        rows,
        held,
        steps,
        trained=c.adapters * computed * rows * c.epochs,
        read=c.adapters * computed * (rows + (evaluations + 1) * held),
        new=computed * (rows + held),
    )


def _direct(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c = config.direct
    if c is None:
        return None
    if c.online is not None:
        return _online(c, c.online, inputs, config.rollout.staleness)
    rows, held = split_pairs(config, inputs)
    computed = _tokens_of_a_pair(config, inputs)
    passes, foreign = (1.0 if c.preset.reference else 0.0), 0.0
    if c.preset.data == "replies":  # two replies per pair; each is read with a foreign prompt too, at every step
        rows, held, computed, passes, foreign = 2 * rows, 2 * held, computed / 2, 2.0, 1.0
    if c.unpaired is not None and inputs.judged is not None:
        held = sum(is_heldout(row.messages[:-1], c.unpaired.holdout) for row in inputs.judged.rows)
        rows, computed = len(inputs.judged.rows) - held, mean(inputs.judged.lengths)
    if c.preset.ready.startswith("sorted"):  # a pass to sort the batch by
        foreign = 1.0
    steps = math.ceil(rows / c.batch_size) * c.epochs
    looks = 1 + math.ceil(steps / c.eval_every)
    return StageWork(
        "direct",
        rows,
        held,
        steps,
        trained=computed * rows * c.epochs,
        read=computed * (passes * (rows + held) + foreign * rows * c.epochs + looks * held * max(passes, 1.0)),
        new=computed * (rows + held),
    )


def _online(c: DirectConfig, online: OnlineConfig, inputs: Inputs, staleness: int) -> StageWork | None:
    """As if every prompt's replies differed in their scores."""
    prompts = inputs.online_prompts
    if prompts is None:
        return None
    n, asked = online.replies_per_prompt, len(prompts.rows) / math.ceil(len(prompts.rows) / c.batch_size)
    reply, prompt = inputs.reply_length(online.sampling), mean(prompts.lengths)
    pairs = online.steps * asked * (prompt + 2 * reply)
    replies = online.steps * asked * (prompt + n * reply)
    return StageWork(
        "direct",
        len(prompts.rows),
        steps=online.steps * c.epochs,
        trained=pairs * c.epochs,
        read=replies + pairs + online.steps * asked * prompt,  # scores; the reference; the prompt to fill the cache
        new=replies,
        sampled=(online.steps + staleness) * asked * n * reply,
        sampling_rows=min(round(asked * n), MAX_ROWS),
        snapshots=online.steps,
    )


def _tokens_of_a_row(graded: Loaded[Any]) -> float:
    """Tokens of a ranking, rating or reply in steps; K times the longest of K replies: an upper bound."""
    replies = [len(row.replies) if isinstance(row, Ranking) else 1 for row in graded.rows]
    return mean([n * length for n, length in zip(replies, graded.lengths, strict=True)])


def _tokens_of_a_pair(config: PipelineConfig, inputs: Inputs) -> float:
    """Tokens that a batch computes for a pair: a prompt once for all its replies, a reply once for all its pairs."""
    c = config.labels
    if inputs.pairs is not None:
        side = mean(inputs.pairs.lengths)  # of the longer side: an upper bound
        return 2 * side - (inputs.pair_prompt_tokens or 0.0)
    if c is None or inputs.pair_prompts is None:
        return 0.0
    pairs = min(c.pairs_per_prompt, math.comb(c.replies_per_prompt, 2))
    replies = min(2 * pairs, c.replies_per_prompt)
    prompt, reply = mean(inputs.pair_prompts.lengths), inputs.reply_length(c.sampling)
    return (prompt + replies * reply) / pairs


def _ppo(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c, prompts = config.ppo, inputs.prompts
    if c is None or prompts is None:
        return None
    # Batches do not cross epochs of the prompts, so the last one of an epoch is smaller.
    n, per_step = c.replies_per_prompt, max(c.batch_size // c.replies_per_prompt, 1)
    asked = len(prompts.rows) / math.ceil(len(prompts.rows) / per_step)
    reply, prompt, batch = inputs.reply_length(c.sampling), mean(prompts.lengths), asked * n
    tokens = c.steps * asked * (prompt + n * reply)
    own_critic = c.critic.init != "shared"
    ptx = mean(inputs.conversations.lengths) if c.ptx_coef and inputs.conversations else 0.0
    steps = c.steps * c.epochs * math.ceil(batch / c.minibatch_size)
    looks = 2 + c.steps // c.sample_every if config.fixed_prompts else 0  # at the fixed prompts
    return StageWork(
        "ppo",
        len(prompts.rows),
        steps=steps,
        trained=tokens * c.epochs * (2 if own_critic else 1) + c.steps * c.epochs * batch * ptx,
        # Policy, reference and reward model; the prompt once more to fill the cache; a critic of its own.
        read=tokens * (4 if own_critic else 3) + c.steps * asked * prompt,
        new=tokens,
        sampled=((c.steps + config.rollout.staleness) * batch + looks * len(config.fixed_prompts)) * reply,
        sampling_rows=min(round(batch), MAX_ROWS),
        snapshots=c.steps + looks,
    )


def _group(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    """Without what dynamic sampling draws again and turns after the first, of which nobody knows the number."""
    c, prompts = config.group, inputs.group_prompts
    if c is None or prompts is None:
        return None
    n, per_step, staleness = c.group_size, max(c.batch_size // c.group_size, 1), config.rollout.staleness
    asked = len(prompts.rows) / math.ceil(len(prompts.rows) / per_step)
    reply, prompt, batch = inputs.reply_length(c.sampling), mean(prompts.lengths), asked * n
    tokens = c.steps * asked * (prompt + n * reply)
    models = (not c.reward) + (c.chosen().kl != "none") + (staleness > 0)  # scores, reference, the policy of now
    looks = 2 + c.steps // c.sample_every if config.fixed_prompts else 0  # at the fixed prompts
    return StageWork(
        "group",
        len(prompts.rows),
        steps=c.steps * c.epochs * math.ceil(batch / c.minibatch_size),
        trained=tokens * c.epochs,
        read=tokens * models + c.steps * asked * prompt,
        new=tokens,
        sampled=((c.steps + staleness) * batch + looks * len(config.fixed_prompts)) * reply,
        sampling_rows=min(round(batch), MAX_ROWS),
        snapshots=c.steps + looks,
    )


def _evaluation(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c, prompts = config.evaluation, inputs.evaluation_prompts
    if c is None or prompts is None:
        return None
    policies = 3 if config.ppo else 2
    again = len(prompts.rows) * (policies - 1) * (c.best_of - 1)  # the base model answers once
    answers = len(prompts.rows) * policies + again + len(config.fixed_prompts) * policies
    reply, prompt = inputs.reply_length(c.sampling), mean(prompts.lengths)
    compared = len(prompts.rows) * (1 + c.best_of * (policies - 2))  # KL: the reference's logprobs
    shared = again * prompt  # one policy's answers to a prompt are scored together
    shared_kl = len(prompts.rows) * (policies - 2) * (c.best_of - 1) * prompt
    return StageWork(
        "evaluation",
        0,
        len(prompts.rows),
        read=(answers + compared) * (prompt + reply) - shared - shared_kl,
        new=answers * (prompt + reply) - shared,
        sampled=answers * reply,
        sampling_rows=min(len(prompts.rows), MAX_ROWS),
        snapshots=2 * policies,
    )


def _assistant_turn(
    rows: Sequence[Conversation], sequences: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]]
) -> float:
    """Mean tokens of an assistant's turn, its end token included."""
    turns = sum(message.role == "assistant" and message.trained for row in rows for message in row)
    return sum(float(mask.sum()) for row in sequences for _, mask in row) / max(turns, 1)
