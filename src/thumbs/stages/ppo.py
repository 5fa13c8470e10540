"""PPO with a critic (arXiv:1707.06347, arXiv:2203.02155): the spine. `Ppo.step` is the algorithm, top to bottom.

    roll out → score → reference logprobs and values → token rewards → advantages → epochs of minibatches

Policy, critic, reference and reward model are handles in one engine; with adapters they share one frozen base.
What the numbers mean: docs/metrics.md. Where each formula is: the import lines. Setting up and resuming: `ppo_run.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from thumbs.config.losses import CrossEntropy, PpoClip, ValueClip
from thumbs.config.ppo import KlConfig, PpoConfig
from thumbs.engine.base import AdamStep, Handle
from thumbs.functional.advantages import gae
from thumbs.functional.kl import adapt_coefficient, kl_estimate
from thumbs.functional.masked import whiten
from thumbs.records import Datum, Prompt, Rollout, Score, TrainOutput
from thumbs.rewards.base import RewardSource
from thumbs.rewards.shaping import shape_scores, token_rewards
from thumbs.rollout.episodes import Episodes
from thumbs.stages.context import Context, adam_at, batch_at, saving_batch
from thumbs.stages.milestones import keep_milestones
from thumbs.stages.ppo_report import experience_metrics, update_metrics
from thumbs.stages.rollouts import minibatches, roll_out
from thumbs.stages.sequences import token_mean


@dataclass(frozen=True)
class Models:
    """The handles. A critic with weights of its own is another handle than the policy; a shared one is the same."""

    policy: Handle
    critic: Handle
    reference: Handle

    @property
    def shared_critic(self) -> bool:
        return self.policy == self.critic


@dataclass(frozen=True, eq=False)
class Experience:
    """What a step learns from; tensors are [B, T], padded, and only entries with mask 1 mean anything."""

    rollouts: list[Rollout]
    scores: list[Score]
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    rollout_s: float


@dataclass(frozen=True, eq=False)
class StepReport:
    """The step's metrics and rollouts, and the next KL coefficient."""

    metrics: dict[str, float]
    rollouts: list[Rollout]
    kl_coef: float


@dataclass(frozen=True)
class Ppo:
    """One PPO run's fixed parts. `pretraining` is the SFT data that ptx_coef mixes in; `episodes` how conversations of
    several turns are held.
    """

    context: Context
    config: PpoConfig
    models: Models
    reward: RewardSource
    prompts: Sequence[Prompt]
    pretraining: Sequence[Datum] = ()
    episodes: Episodes | None = None

    def step(self, number: int, kl_coef: float) -> StepReport:
        """One round of rollout and update; depends only on its arguments and the weights.

        A policy that is past kl.budget is not updated: the one that was measured is the one that stays.
        """
        c, n, started = self.config, self.config.replies_per_prompt, time.monotonic()
        drawn = batch_at(self.prompts, number, c.batch_size // n, self.context.seed, "ppo-prompts")
        key, episodes = ("ppo", number), self.episodes
        rollouts = roll_out(self.context, self.models.policy, drawn, n, c.sampling, *key, episodes=episodes)
        rollout_s = time.monotonic() - started
        scores = self.reward.score(rollouts)

        logprobs, values, reference_logprobs, mask = self.look(rollouts)
        kl = kl_estimate(logprobs, reference_logprobs, c.kl.estimator)
        rewards = token_rewards(shape_scores(scores, rollouts, c), kl, mask, kl_coef, scores)
        if c.whiten_rewards:
            rewards = whiten(rewards, mask, shift_mean=False)
        advantages, returns = gae(rewards, values, mask, c.gamma, c.lam)
        experience = Experience(
            rollouts,
            scores,
            mask,
            logprobs,
            reference_logprobs,
            values,
            rewards,
            advantages,
            returns,
            rollout_s,
        )
        metrics = experience_metrics(experience, kl_coef)
        keep_milestones(self.context, self.models.policy, metrics["ppo/kl"])
        if not is_spent(c.kl, metrics):
            learned = whiten(advantages, mask) if c.whiten_advantages else advantages
            metrics |= update_metrics(*self.update(number, self.data(experience, learned)))
        elapsed = time.monotonic() - started
        metrics["ppo/tokens_per_s"] = float(mask.sum()) / elapsed
        metrics["ppo/update_s"] = elapsed - rollout_s
        if c.kl.target is not None:
            kl_coef = adapt_coefficient(kl_coef, metrics["ppo/kl"], c.kl.target, c.kl.horizon, len(rollouts))
        return StepReport(metrics, rollouts, kl_coef)

    def look(self, rollouts: Sequence[Rollout]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logprobs and values of the policy before the update, reference logprobs, and mask, [B, T] each."""
        engine, temperature = self.context.engine, self.config.sampling.temperature
        data = [Datum.next_token(r.tokens, weights=r.mask) for r in rollouts]
        policy = engine.forward(self.models.policy, data, temperature=temperature)
        reference = engine.forward(self.models.reference, data, temperature=temperature)
        critic = policy if self.models.shared_critic else engine.forward(self.models.critic, data)
        return (
            pad([o.logprobs for o in policy]),
            pad([o.values for o in critic]),
            pad([o.logprobs for o in reference]),
            pad([r.mask for r in rollouts]),
        )

    def data(self, experience: Experience, advantages: Tensor) -> list[Datum]:
        """One datum a rollout with every column that policy and critic losses need; weights are the mask."""
        columns = {
            "weights": experience.mask,
            "logprobs": experience.logprobs,
            "advantages": advantages,
            "values": experience.values,
            "returns": experience.returns,
        }
        return [
            Datum.next_token(r.tokens, **{k: v[i, : len(r.tokens) - 1].numpy() for k, v in columns.items()})
            for i, r in enumerate(experience.rollouts)
        ]

    def update(self, number: int, data: list[Datum]) -> tuple[list[dict[str, float]], float]:
        """Epochs of minibatches, ended early past kl.stop_above; what each step saw, and the epochs done."""
        c, seen = self.config, []
        for epoch in range(c.epochs):
            order = self.context.seed, "ppo-order", number, epoch
            for batch in minibatches(data, c.minibatch_size, c.replies_per_prompt, *order):
                with saving_batch(self.context, number, batch):
                    seen.append(self.minibatch(number, batch))
                if c.kl.stop_above is not None and seen[-1]["approx_kl"] > c.kl.stop_above:
                    return seen, len(seen) * c.minibatch_size / len(data)
        return seen, float(c.epochs)

    def minibatch(self, number: int, batch: list[Datum]) -> dict[str, float]:
        """One optimizer step of policy and critic; during the warm-up of the critic alone."""
        c, engine, models = self.config, self.context.engine, self.models
        policy_loss = PpoClip(clip_range=c.clip_range, entropy_coef=c.entropy_coef, temperature=c.sampling.temperature)
        value_loss = ValueClip(clip_range=c.critic.value_clip, coef=c.critic.value_coef)
        rates = self.rates(number)
        shared = [value_loss] if models.shared_critic else []
        output = critic_output = engine.forward_backward(models.policy, batch, [policy_loss, *shared])
        ptx = self.mix_pretraining(number, len(batch))
        seen = {"grad_norm": engine.optim_step(models.policy, rates["policy"]).grad_norm}
        if not models.shared_critic:  # after the policy's step, whose gradients are no longer in memory
            critic_output = engine.forward_backward(models.critic, batch, [value_loss])
            seen["critic_grad_norm"] = engine.optim_step(models.critic, rates["critic"]).grad_norm
        return seen | ptx | _named(output, critic_output) | {"learning_rate": rates["policy"].learning_rate}

    def rates(self, number: int) -> dict[str, AdamStep]:
        """Optimizer settings of policy and critic at this step."""
        c = self.config
        policy = adam_at(c.optim, number, c.steps)
        share = policy.learning_rate / c.optim.learning_rate if c.optim.learning_rate else 0.0
        default = c.optim.learning_rate * (10.0 if self.models.shared_critic else 1.0)
        critic_rate = share * (c.critic.learning_rate or default)
        warming = number < c.critic.warmup_steps
        trunk_rate = 0.0 if warming else policy.learning_rate
        head_rate = critic_rate if self.models.shared_critic else 0.0
        return {
            "policy": _with_rates(policy, trunk_rate, head_rate),
            "critic": _with_rates(policy, critic_rate, critic_rate),
        }

    def mix_pretraining(self, number: int, size: int) -> dict[str, float]:
        """Adds the gradient of ptx_coef times the SFT loss (InstructGPT, eq. 2); nothing when it is off."""
        if not self.config.ptx_coef or not self.pretraining:
            return {}
        batch = token_mean(batch_at(self.pretraining, number, size, self.context.seed, "ptx"), self.config.ptx_coef)
        output = self.context.engine.forward_backward(self.models.policy, batch, [CrossEntropy()])
        return {"ptx_loss": output.loss / self.config.ptx_coef}


def is_spent(kl: KlConfig, metrics: Mapping[str, float]) -> bool:
    """Whether the policy whose replies were measured is farther from the reference than the run may go.

    A strong reward model gets there in half the steps that a weak one needs; at the same KL their policies are alike
    in variety (Gao et al. 2022, arXiv:2210.10760, compare at equal KL for that reason).
    """
    return kl.budget is not None and metrics.get("ppo/kl", 0.0) > kl.budget


def pad(rows: Sequence[np.ndarray]) -> Tensor:
    """Ragged float rows → [B, T] with zeros on the right."""
    return pad_sequence([torch.from_numpy(np.asarray(row, dtype=np.float32)) for row in rows], batch_first=True)


def _with_rates(adam: AdamStep, learning_rate: float, head_learning_rate: float) -> AdamStep:
    return AdamStep(**{**adam.__dict__, "learning_rate": learning_rate, "head_learning_rate": head_learning_rate})


def _named(policy: TrainOutput, critic: TrainOutput) -> dict[str, float]:
    p, v = policy.metrics, critic.metrics
    return {
        "policy_loss": p["ppo_clip/loss_sum"],
        "approx_kl": p["ppo_clip/approx_kl"],
        "clip_fraction": p["ppo_clip/clip_fraction"],
        "ratio": p["ppo_clip/ratio"],
        "ratio_max": p["ppo_clip/ratio_max"],
        "entropy": p["ppo_clip/entropy"],
        "value_loss": v["value_clip/loss_sum"],
        "value_clip_fraction": v["value_clip/value_clip_fraction"],
    }
