"""Group-relative policy optimisation (GRPO, arXiv:2402.03300): PPO's loss with advantages from a group's own scores.

    roll out groups → score → advantages within each group → epochs of minibatches → publish

No critic, no reference: the ratio's clip alone keeps the policy near its sampler. The ratio's old logprobs are the
sampler's own, so nothing is computed twice. Every sampled token weighs the same (DAPO, arXiv:2503.14476, eq. 8).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thumbs.config.losses import PpoClip
from thumbs.config.stages import GroupConfig
from thumbs.engine.base import Handle
from thumbs.errors import ConfigError
from thumbs.functional.advantages import group_advantages
from thumbs.rewards.base import RewardSource
from thumbs.rollout.collect import collect, require_unwarped, seed_of
from thumbs.rollout.sampler import Sampler
from thumbs.stages.context import Context, adam_at, batch_at, saving_batch
from thumbs.stages.sequences import token_mean
from thumbs.types import Datum, Prompt, Rollout


@dataclass(frozen=True, eq=False)
class GroupReport:
    """The step's metrics and rollouts, and the next sampler."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    sampler: Sampler


@dataclass(frozen=True)
class Group:
    """One run's fixed parts."""

    context: Context
    config: GroupConfig
    policy: Handle
    reward: RewardSource
    prompts: Sequence[Prompt]

    def step(self, number: int, sampler: Sampler) -> GroupReport:
        """One round of rollout and update; depends only on its arguments and the weights."""
        c, n, started = self.config, self.config.group_size, time.monotonic()
        drawn = batch_at(self.prompts, number, c.batch_size // n, self.context.seed, "group-prompts")
        prompts = [prompt for prompt in drawn for _ in range(n)]
        seeds = [seed_of(self.context.seed, "group", number, row) for row in range(len(prompts))]
        rollouts = collect(sampler, prompts, self.context.tokenizer, c.sampling, seeds)
        rollout_s = time.monotonic() - started
        scores = torch.tensor([score.value for score in self.reward.score(rollouts)])
        advantages = group_advantages(scores.view(-1, n), scale=c.scale).flatten()
        data = [
            Datum.next_token(r.tokens, weights=r.mask, logprobs=r.logprobs, advantages=float(a) * r.mask)
            for r, a in zip(rollouts, advantages, strict=True)
        ]
        metrics = self.update(number, data) | {
            "group/score": float(scores.mean()),
            "group/score_std": float(scores.view(-1, n).std(dim=1).mean()),
            "group/length": float(np.mean([rollout.reply_length for rollout in rollouts])),
            "group/truncated": float(np.mean([rollout.stop_reason == "length" for rollout in rollouts])),
            "group/rollout_s": rollout_s,
            "group/update_s": time.monotonic() - started - rollout_s,
        }
        return GroupReport(metrics, rollouts, self.context.engine.snapshot(self.policy))

    def update(self, number: int, data: list[Datum]) -> dict[str, float]:
        """Epochs of minibatches of whole groups; means over the optimizer steps."""
        c, n, seen = self.config, self.config.group_size, []
        loss = PpoClip(clip_range=c.clip_range, temperature=c.sampling.temperature)
        for epoch in range(c.epochs):
            random = np.random.default_rng(seed_of(self.context.seed, "group-order", number, epoch))
            order = (random.permutation(len(data) // n)[:, None] * n + np.arange(n)).ravel()
            for start in range(0, len(data), c.minibatch_size):
                batch = token_mean([data[i] for i in order[start : start + c.minibatch_size]])
                with saving_batch(self.context, number, batch):
                    output = self.context.engine.forward_backward(self.policy, batch, [loss])
                    report = self.context.engine.optim_step(self.policy, adam_at(c.optim, number, c.steps))
                seen.append({**output.metrics, "grad_norm": report.grad_norm})
        names = {"ppo_clip/loss_sum": "policy_loss", "ppo_clip/clip_fraction": "clip_fraction"}
        names |= {"ppo_clip/approx_kl": "approx_kl", "ppo_clip/entropy": "entropy", "grad_norm": "grad_norm"}
        return {f"group/{name}": float(np.mean([step[key] for step in seen])) for key, name in names.items()}


def check(config: GroupConfig) -> None:
    """Raises ConfigError for settings that do not fit each other."""
    require_unwarped(config.sampling)
    for whole, part in (("batch_size", "minibatch_size"), ("minibatch_size", "group_size")):
        if getattr(config, whole) % getattr(config, part):
            raise ConfigError(
                f"group.{whole}={getattr(config, whole)} is not a multiple of group.{part}={getattr(config, part)}"
            )
