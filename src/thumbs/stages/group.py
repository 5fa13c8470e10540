"""Group-relative policy optimisation (GRPO, arXiv:2402.03300): PPO's loss with advantages from a group's own scores.

    roll out groups → score → advantages within each group → epochs of minibatches

No critic, no reference: the ratio's clip alone keeps the policy near its sampler. The ratio's old logprobs are the
sampler's own, so nothing is computed twice. Every sampled token weighs the same (DAPO, arXiv:2503.14476, eq. 8).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from thumbs.config.group import GroupConfig
from thumbs.config.losses import PpoClip
from thumbs.engine.base import Handle
from thumbs.functional.advantages import group_advantages
from thumbs.records import Datum, Prompt, Rollout
from thumbs.rewards.base import RewardSource
from thumbs.stages.context import Context, adam_at, batch_at, saving_batch
from thumbs.stages.rollouts import check_rounds, minibatches, roll_out


@dataclass(frozen=True, eq=False)
class GroupReport:
    """The step's metrics and rollouts."""

    metrics: dict[str, float]
    rollouts: list[Rollout]


@dataclass(frozen=True)
class Group:
    """One run's fixed parts; raises ConfigError for settings that do not fit each other."""

    context: Context
    config: GroupConfig
    policy: Handle
    reward: RewardSource
    prompts: Sequence[Prompt]

    def __post_init__(self) -> None:
        check_rounds(self.config)

    def step(self, number: int) -> GroupReport:
        """One round of rollout and update; depends only on its arguments and the weights."""
        c, n, started = self.config, self.config.group_size, time.monotonic()
        drawn = batch_at(self.prompts, number, c.batch_size // n, self.context.seed, "group-prompts")
        rollouts = roll_out(self.context, self.policy, drawn, n, c.sampling, "group", number)
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
        return GroupReport(metrics, rollouts)

    def update(self, number: int, data: list[Datum]) -> dict[str, float]:
        """Epochs of minibatches of whole groups; means over the optimizer steps."""
        c, seen = self.config, []
        loss = PpoClip(clip_range=c.clip_range, temperature=c.sampling.temperature)
        for epoch in range(c.epochs):
            order = self.context.seed, "group-order", number, epoch
            for batch in minibatches(data, c.minibatch_size, c.group_size, *order):
                with saving_batch(self.context, number, batch):
                    output = self.context.engine.forward_backward(self.policy, batch, [loss])
                    report = self.context.engine.optim_step(self.policy, adam_at(c.optim, number, c.steps))
                seen.append({**output.metrics, "grad_norm": report.grad_norm})
        names = {"ppo_clip/loss_sum": "policy_loss", "ppo_clip/clip_fraction": "clip_fraction"}
        names |= {"ppo_clip/approx_kl": "approx_kl", "ppo_clip/entropy": "entropy", "grad_norm": "grad_norm"}
        return {f"group/{name}": float(np.mean([step[key] for step in seen])) for key, name in names.items()}
