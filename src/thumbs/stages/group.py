"""Reinforcement learning from groups of replies (GRPO and its family): PPO's loop without a critic.

    take groups of replies → score → token rewards → advantages within groups → epochs of minibatches

A method (`config/group_methods.py`) says how scores become advantages, which loss takes them, what it is averaged
over, and where distance from the reference is paid for. The ratio's old logprobs are the sampler's own, so nothing is
computed twice, unless the sampler may be older than the policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thumbs.config.group import GroupConfig
from thumbs.config.group_methods import Advantage
from thumbs.config.losses import TokenLoss
from thumbs.engine.base import Handle, ModelSpec
from thumbs.errors import ConfigError
from thumbs.functional.advantages import group_advantages, importance_weights, leave_one_out, returns_to_go
from thumbs.functional.kl import kl_estimate
from thumbs.functional.masked import whiten
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource
from thumbs.rewards.shaping import overlong_penalties, token_rewards
from thumbs.rollout.episodes import Episodes
from thumbs.safety.guards import alarms
from thumbs.stages.constraint import and_infeasible, costed, price
from thumbs.stages.context import Context, adam_at
from thumbs.stages.group_report import Lesson, lesson_metrics, update_metrics
from thumbs.stages.group_supply import with_signal
from thumbs.stages.loop import Loop, Metrics, State, optimizer_step
from thumbs.stages.milestones import keep_milestones
from thumbs.stages.rollout_queue import BatchSpec, RolloutQueue
from thumbs.stages.rollouts import check_rounds, keep_samples, minibatches, pad, rollout_data
from thumbs.stages.sequences import normalised
from thumbs.stages.watch import OpenWatch


def run_group(
    context: Context,
    config: GroupConfig,
    reward: RewardSource,
    start: Path | None,
    prompts: Sequence[Prompt],
    *,
    fixed_prompts: Sequence[Prompt] = (),
    episodes: Episodes | None = None,
    watch: OpenWatch | None = None,
    cost: RewardSource | None = None,
) -> dict[str, Any]:
    """Optimises the policy in checkpoint `start` (None: the base model) against `reward`.

    Leaves the last policy in the stage's `model` folder; returns the last step's metrics. `fixed_prompts` are answered
    every `sample_every` steps for the report; `episodes` makes rollouts conversations of several turns;
    `watch` looks at the policy meanwhile; `cost`: what a reply costs, for config.constraint.
    """
    check_rounds(config)
    if not prompts:
        raise ConfigError("group got no prompts")
    engine, spec = context.engine, ModelSpec("policy", context.model, ("lm",), start, seed=context.seed)
    policy, reference = engine.create(spec), engine.create(replace(spec, name="reference", trainable=False))
    group = Group(context, config, policy, reward, prompts, reference, episodes, cost)
    loop = Loop(
        context,
        title="group",
        steps=config.steps,
        models={"policy": policy},
        keeps={context.best: policy},
        shown={"score": "group/score", "length": "group/length"},
        save_every=config.save_every,
        samples=partial(keep_samples, context, policy, reward, fixed_prompts, config.sampling, episodes),
        sample_every=config.sample_every,
        alarms=and_infeasible(config, partial(alarms, stage="group", watched=watch is not None)),
        watch=None if watch is None else watch(context=context, policy=policy, reference=reference),
        before_save=group.queue.save,
    )

    def step(number: int, state: State) -> Metrics:
        group.queue.restore(state)
        report = group.step(number, state.get("lambda"))
        state["lambda"] = report.multiplier
        return report.metrics

    with group.queue.open():
        ended = loop.run(step)
    for handle in (policy, reference):
        engine.close(handle)
    return {"steps": ended.step, "last": ended.metrics}


@dataclass(frozen=True, eq=False)
class GroupReport:
    """The step's metrics and rollouts, and the next λ of a constraint (else 0)."""

    metrics: dict[str, float]
    rollouts: Sequence[Rollout]
    multiplier: float = 0.0


@dataclass(frozen=True)
class Group:
    """One run's fixed parts; raises ConfigError for settings that do not fit each other.

    reference: may be left out if KL is neither priced nor measured. cost: what a reply costs, for config.constraint.
    """

    context: Context
    config: GroupConfig
    policy: Handle
    reward: RewardSource
    prompts: Sequence[Prompt]
    reference: Handle | None = None
    episodes: Episodes | None = None
    cost: RewardSource | None = None

    def __post_init__(self) -> None:
        check_rounds(self.config)
        if self.reference is None and self.config.chosen().kl != "none":
            raise ConfigError(f"method {self.config.method} prices KL, which needs a reference; or set group.kl=none")

    @cached_property
    def queue(self) -> RolloutQueue:
        """Where the rollouts of a step come from."""
        c, more = self.config, self.config.chosen().dynamic_sampling
        refine = partial(with_signal, size=c.group_size, more=more) if more else None
        size = c.batch_size // c.group_size
        spec = BatchSpec(self.prompts, size, c.group_size, c.sampling, "group", self.episodes, refine)
        return RolloutQueue(self.context, self.policy, costed(c, self.reward, self.cost), spec)

    def step(self, number: int, multiplier: float | None = None) -> GroupReport:
        """One round of rollout and update; depends only on its arguments, the weights and the batches in the queue.

        multiplier: λ of the constraint; None: where it starts. With one, the advantages are whitened over the step,
        since λ grows and they would grow with it.
        """
        c, method, started = self.config, self.config.chosen(), time.monotonic()
        batch = self.queue.take(number)
        rollouts, scores = batch.rollouts, batch.scores
        rollout_s = time.monotonic() - started
        mask, sampled = pad([r.mask for r in rollouts]), pad([r.logprobs for r in rollouts])
        old = self.logprobs(self.policy, rollouts) if self.context.rollout.is_off_policy else sampled
        reference = self.logprobs(self.reference, rollouts) if self.reference and self.measures_kl(number) else None

        lengths = torch.tensor([float(rollout.last_reply_length) for rollout in rollouts])
        overlong = overlong_penalties(
            lengths, c.sampling.max_new_tokens, method.overlong_buffer, method.overlong_penalty
        )
        shaped = torch.tensor([score.value for score in scores]) - overlong
        kl = torch.zeros_like(old) if reference is None else kl_estimate(old, reference, method.kl_estimator)
        priced = price(c, shaped, scores, multiplier)
        rewards = token_rewards(priced.scores, kl, mask, method.kl_coef if method.kl == "reward" else 0.0, scores)
        advantages = ADVANTAGES[method.advantage](rewards, mask, c.group_size)
        advantages = advantages if c.constraint is None else whiten(advantages, mask)
        importance = importance_weights(c.importance, old, sampled, mask, c.importance_cap)

        columns = {"weights": mask, "logprobs": old, "advantages": advantages * importance, "ratio_mask": mask}
        columns |= {"reference_logprobs": reference} if method.kl == "loss" and reference is not None else {}
        lesson = Lesson(
            number=number,
            batch=batch,
            group_size=c.group_size,
            mask=mask,
            logprobs=old,
            reference_logprobs=reference,
            overlong=overlong,
            importance=importance,
            measured=self.context.rollout.is_off_policy,
        )
        metrics = lesson_metrics(lesson) | {"group/rollout_s": rollout_s} | priced.metrics
        metrics |= {f"group/{name}": value for name, value in self.queue.metrics(number, batch).items()}
        keep_milestones(self.context, self.policy, metrics.get("group/kl", 0.0))
        metrics |= self.update(number, rollout_data(rollouts, columns))
        metrics["group/update_s"] = time.monotonic() - started - rollout_s
        return GroupReport(metrics, rollouts, priced.multiplier)

    def measures_kl(self, number: int) -> bool:
        """Whether this step asks the reference: always if KL is priced or kept as a milestone, else at times."""
        always = self.config.chosen().kl != "none" or bool(self.context.frontier)
        return always or (number + 1) % self.config.sample_every == 0

    def logprobs(self, model: Handle, rollouts: Sequence[Rollout]) -> Tensor:
        """A model's logprobs of what was sampled [B, T], nats; 0 elsewhere."""
        data = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
        outputs = self.context.engine.forward(model, data, temperature=self.config.sampling.temperature)
        return pad([output.logprobs for output in outputs])

    def update(self, number: int, data: list[Example]) -> dict[str, float]:
        """Epochs of minibatches of whole groups; means over the optimizer steps."""
        c, method, steps = self.config, self.config.chosen(), []
        losses = [method.loss]
        if method.kl == "loss":
            estimator = "k2" if method.kl_estimator == "k2" else "k3"
            losses.append(
                TokenLoss.of("kl_penalty", estimator=estimator, coef=method.kl_coef, temperature=c.sampling.temperature)
            )
        normalise = partial(normalised, normaliser=method.normaliser, length=c.sampling.max_new_tokens)
        adam = adam_at(c.optim, number, c.steps)
        for epoch in range(c.epochs):
            order = self.context.seed, "group-order", number, epoch
            for batch in minibatches(data, c.minibatch_size, c.group_size, *order, normalise=normalise):
                output, report = optimizer_step(self.context, number, self.policy, batch, losses, adam)
                steps.append({**output.metrics, "grad_norm": report.grad_norm})
        return update_metrics(steps, method.loss.formula)


def by_group(of: Callable[[Tensor], Tensor], rewards: Tensor, mask: Tensor, n: int) -> Tensor:
    """`of` the scores [P, n], the sums of a reply's rewards, at each of its tokens, [B, T]."""
    scores = (rewards * mask).sum(dim=1).view(-1, n)
    return of(scores).flatten()[:, None] * mask


def batch_normalised(rewards: Tensor, mask: Tensor, n: int) -> Tensor:
    """What is still to come, in deviations over all tokens of the step; groups mean nothing."""
    return whiten(returns_to_go(rewards, mask), mask)


def centred_batch_normalised(rewards: Tensor, mask: Tensor, n: int) -> Tensor:
    """Scores less the mean of their group, then in deviations over all tokens of the step."""
    return whiten(by_group(_centred, rewards, mask, n), mask)


_centred = partial(group_advantages, scale=False)

ADVANTAGES: dict[Advantage, Callable[[Tensor, Tensor, int], Tensor]] = {
    "group": partial(by_group, group_advantages),
    "centred": partial(by_group, _centred),
    "leave_one_out": partial(by_group, leave_one_out),
    "batch": batch_normalised,
    "centred_batch": centred_batch_normalised,
}
"""From token rewards and mask [B, T], and the size of a group, to advantages [B, T]."""
