"""How much work a config asks for: its data, and how many tokens each stage trains on, reads and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from thumbs.config.direct import DirectConfig, OnlineConfig
from thumbs.config.pipeline import PipelineConfig
from thumbs.config.reward_model import RewardModelConfig
from thumbs.data.load import Loaded
from thumbs.data.splits import is_heldout
from thumbs.pipeline.inputs import Inputs, mean, split_pairs
from thumbs.records import Prompt, Ranking
from thumbs.rollout.scheduler import MAX_ROWS
from thumbs.stages.watch import COMPARED


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


def work_of(config: PipelineConfig, inputs: Inputs) -> list[StageWork]:
    """Work of the stages that the config has, in their order."""
    stages = (
        *(_sft, _labels, _reward_model, _second_opinion, _cost_model),
        *(_direct, _ppo, _group, _rejection, _evaluation),
    )
    return [work for stage in stages if (work := stage(config, inputs)) is not None]


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
        return _scoring("reward_model", c, *_reward_rows(config, inputs), _tokens_of_a_row(inputs.graded))
    if c is not None and source is not None:
        return _scoring("reward_model", c, *_reward_rows(config, inputs), _tokens_of_a_pair(config, inputs))
    return None


def has_second_opinion(config: PipelineConfig) -> bool:
    """Whether a reward model is trained on the held-out pairs: for a watch without another opinion or an evaluation
    without gold."""
    c, own = config.watch, config.reward_model
    watched = c is not None and c.gold is None and c.second_proxy is None
    asked = watched or (config.evaluation is not None and config.evaluation.gold is None)
    return asked and (own.form == "pairs" if own is not None else config.labels is not None)


def _second_opinion(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    """Trains on the pairs that the run's reward model holds out, and holds out those that it trains on."""
    rows, held = _reward_rows(config, inputs)
    if not has_second_opinion(config) or not held:
        return None
    c, graded = config.reward_model or RewardModelConfig(), inputs.graded
    tokens = _tokens_of_a_pair(config, inputs) if graded is None else _tokens_of_a_row(graded)
    return _scoring("second_opinion", c.model_copy(update={"adapters": 1}), held, rows, tokens)


def _cost_model(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c, marked = config.cost_model, inputs.marked
    if c is None or marked is None:
        return None
    held = sum(is_heldout(row.prompt, c.data.holdout) for row in marked.rows)
    return _scoring("cost_model", c.training(), len(marked.rows) - held, held, 2 * mean(marked.lengths))


def _reward_rows(config: PipelineConfig, inputs: Inputs) -> tuple[int, int]:
    """(training, held-out) rows of the reward model."""
    c = config.reward_model
    if c is None or c.data is None or inputs.graded is None:
        return split_pairs(config, inputs)
    held = sum(is_heldout(row.prompt, c.data.holdout) for row in inputs.graded.rows)
    return len(inputs.graded.rows) - held, held


def _scoring(stage: str, c: RewardModelConfig, rows: int, held: int, tokens: float) -> StageWork:
    """Training of a model with scalar heads on rows of so many tokens."""
    steps = math.ceil(rows / c.batch_size) * c.epochs
    evaluations = math.ceil(steps / c.eval_every)
    return StageWork(
        stage,
        rows,
        held,
        steps,
        trained=c.adapters * tokens * rows * c.epochs,
        read=c.adapters * tokens * (rows + (evaluations + 1) * held),
        new=tokens * (rows + held),
    )


def _watched(config: PipelineConfig, steps: int, prompts: Loaded[Prompt], reply: float, work: StageWork) -> StageWork:
    """The work with that of the looks at a policy whose replies have so many tokens: before the first step, every so
    many steps, and after the last.

    Without what gold costs, which may be a function or a service.
    """
    c = config.watch
    if c is None:
        return work
    looks = 1 + math.ceil(steps / c.every)
    asked = min(c.prompts, len({row.messages for row in prompts.rows}))
    prompt = mean(prompts.lengths)
    opinions = 1 + (c.gold is None or c.second_proxy is not None)  # what pays the policy, and another
    compared = asked + min(COMPARED, asked)  # the reference's logprobs of all replies, the policy's of some
    return replace(
        work,
        read=work.read + looks * ((opinions * asked + compared) * (prompt + reply) + asked * prompt),
        new=work.new + looks * asked * (prompt + reply),
        sampled=work.sampled + looks * asked * reply,
        snapshots=work.snapshots + looks,
    )


def _direct(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    c = config.direct
    if c is None:
        return None
    if c.online is not None:
        return _online(config, c, c.online, inputs)
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


def _online(config: PipelineConfig, c: DirectConfig, online: OnlineConfig, inputs: Inputs) -> StageWork | None:
    """As if every prompt's replies differed in their scores."""
    prompts = inputs.online_prompts
    if prompts is None:
        return None
    n, asked = online.replies_per_prompt, len(prompts.rows) / math.ceil(len(prompts.rows) / c.batch_size)
    reply, prompt = inputs.reply_length(online.sampling), mean(prompts.lengths)
    pairs = online.steps * asked * (prompt + 2 * reply)
    replies = online.steps * asked * (prompt + n * reply)
    work = StageWork(
        "direct",
        len(prompts.rows),
        steps=online.steps * c.epochs,
        trained=pairs * c.epochs,
        read=replies + pairs + online.steps * asked * prompt,  # scores; the reference; the prompt to fill the cache
        new=replies,
        sampled=(online.steps + config.rollout.staleness) * asked * n * reply,
        sampling_rows=min(round(asked * n), MAX_ROWS),
        snapshots=online.steps,
    )
    return _watched(config, online.steps, prompts, reply, work)


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
    work = StageWork(
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
    return _watched(config, c.steps, prompts, reply, work)


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
    work = StageWork(
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
    return _watched(config, c.steps, prompts, reply, work)


def _rejection(config: PipelineConfig, inputs: Inputs) -> StageWork | None:
    """As if every prompt kept as many replies as it may."""
    c, prompts = config.rejection, inputs.rejection_prompts
    if c is None or prompts is None:
        return None
    n, asked, kept = c.replies_per_prompt, len(prompts.rows), len(prompts.rows) * c.keep
    reply, prompt = inputs.reply_length(c.sampling), mean(prompts.lengths)
    tokens = c.rounds * asked * (prompt + n * reply)
    work = StageWork(
        "rejection",
        asked,
        steps=c.rounds * c.epochs * math.ceil(kept / c.batch_size),
        trained=c.rounds * c.epochs * kept * (prompt + reply),
        read=tokens * (not c.reward) + c.rounds * asked * prompt,
        new=tokens,
        sampled=c.rounds * asked * n * reply,
        sampling_rows=min(asked * n, MAX_ROWS),
        snapshots=c.rounds,
    )
    return _watched(config, c.rounds, prompts, reply, work)


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
