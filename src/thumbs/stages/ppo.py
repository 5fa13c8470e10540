"""PPO with a critic (arXiv:1707.06347, arXiv:2203.02155): the spine. `Ppo.step` is the algorithm, top to bottom.

    take scored rollouts → reference logprobs and values → token rewards → advantages → epochs of minibatches

Policy, critic, reference and reward model are handles in one engine; with adapters they share one frozen base.
What the numbers mean: docs/metrics.md. Where each formula is: the import lines. Setting up and resuming: `ppo_run.py`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from thumbs.config.losses import CROSS_ENTROPY, TokenLoss
from thumbs.config.ppo import KlConfig, PpoConfig
from thumbs.engine.base import AdamStep, Handle
from thumbs.functional.advantages import gae, importance_weights
from thumbs.functional.kl import adapt_coefficient, kl_estimate
from thumbs.functional.masked import whiten
from thumbs.records import Example, Prompt, Rollout, TrainOutput
from thumbs.rewards.base import RewardSource
from thumbs.rewards.shaping import shape_scores, token_rewards
from thumbs.rollout.episodes import Episodes
from thumbs.stages.constraint import costed, price
from thumbs.stages.context import Context, adam_at, batch_at, saving_batch
from thumbs.stages.milestones import keep_milestones
from thumbs.stages.ppo_report import Experience, Predictions, experience_metrics, update_metrics
from thumbs.stages.rollout_queue import BatchSpec, RolloutQueue
from thumbs.stages.rollouts import minibatches, pad, rollout_data
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
class StepReport:
    """The step's metrics and rollouts, the next KL coefficient, and the next λ of a constraint (else 0)."""

    metrics: dict[str, float]
    rollouts: Sequence[Rollout]
    kl_coef: float
    multiplier: float = 0.0


@dataclass(frozen=True)
class Ppo:
    """One PPO run's fixed parts. `pretraining` is the SFT data that ptx_coef mixes in; `episodes` how conversations of
    several turns are held; `cost` what a reply costs, where config.constraint limits that.
    """

    context: Context
    config: PpoConfig
    models: Models
    reward: RewardSource
    prompts: Sequence[Prompt]
    pretraining: Sequence[Example] = ()
    episodes: Episodes | None = None
    cost: RewardSource | None = None

    def step(self, number: int, kl_coef: float, multiplier: float | None = None) -> StepReport:
        """One round of rollout and update; depends only on its arguments, the weights and the batches in the queue.

        multiplier: λ of the constraint; None: where it starts. A policy that is past kl.budget is not updated: the one
        that was measured is the one that stays.
        """
        c, policy, started = self.config, self.models.policy, time.monotonic()
        batch = self.queue.take(number)
        rollouts, scores = batch.rollouts, batch.scores
        rollout_s = time.monotonic() - started

        before = self.predict(rollouts)
        kl = kl_estimate(before.logprobs, before.reference_logprobs, c.kl.estimator)
        priced = price(c, shape_scores(scores, rollouts, c), scores, multiplier)
        rewards = token_rewards(priced.scores, kl, before.mask, kl_coef, scores)
        if c.whiten_rewards:
            rewards = whiten(rewards, before.mask, shift_mean=False)
        advantages, returns = gae(rewards, before.values, before.mask, c.gamma, c.lam)
        experience = Experience(
            rollouts=rollouts,
            scores=scores,
            before=before,
            rewards=rewards,
            advantages=advantages,
            returns=returns,
            importance=self.importance(rollouts, before),
        )

        metrics = experience_metrics(experience) | {"ppo/kl_coef": kl_coef, "ppo/rollout_s": rollout_s}
        metrics |= priced.metrics
        metrics |= {f"ppo/{name}": value for name, value in self.queue.metrics(number, batch).items()}
        keep_milestones(self.context, policy, metrics["ppo/kl"])
        if why_spent(c.kl, metrics) is None:
            metrics |= self.update(number, self.data(experience))
        elapsed = time.monotonic() - started
        metrics["ppo/tokens_per_s"] = float(before.mask.sum()) / elapsed
        metrics["ppo/update_s"] = elapsed - rollout_s
        if c.kl.target is not None:
            kl_coef = adapt_coefficient(kl_coef, metrics["ppo/kl"], c.kl.target, c.kl.horizon, len(rollouts))
        return StepReport(metrics, rollouts, kl_coef, priced.multiplier)

    @cached_property
    def queue(self) -> RolloutQueue:
        """Where the rollouts of a step come from."""
        c = self.config
        size = c.batch_size // c.replies_per_prompt
        spec = BatchSpec(self.prompts, size, c.replies_per_prompt, c.sampling, "ppo", self.episodes)
        return RolloutQueue(self.context, self.models.policy, costed(c, self.reward, self.cost), spec)

    def importance(self, rollouts: Sequence[Rollout], before: Predictions) -> Tensor | None:
        """What tokens of another sampler are worth to the policy, [B, T]; None if it is the policy that sampled."""
        if not self.context.rollout.is_off_policy:
            return None
        c, sampled = self.config, pad([r.logprobs for r in rollouts])
        return importance_weights(c.importance, before.logprobs, sampled, before.mask, c.importance_cap)

    def predict(self, rollouts: Sequence[Rollout]) -> Predictions:
        """What policy, critic and reference say of the rollouts before the update."""
        engine, temperature = self.context.engine, self.config.sampling.temperature
        data = [Example.next_token(r.tokens, weights=r.mask) for r in rollouts]
        policy = engine.forward(self.models.policy, data, temperature=temperature)
        reference = engine.forward(self.models.reference, data, temperature=temperature)
        critic = policy if self.models.shared_critic else engine.forward(self.models.critic, data)
        return Predictions(
            mask=pad([r.mask for r in rollouts]),
            logprobs=pad([o.logprobs for o in policy]),
            reference_logprobs=pad([o.logprobs for o in reference]),
            values=pad([o.values for o in critic]),
        )

    def data(self, experience: Experience) -> list[Example]:
        """One datum per rollout with every column that policy and critic losses need; weights are the mask."""
        before, advantages, importance = experience.before, experience.advantages, experience.importance
        advantages = whiten(advantages, before.mask) if self.config.whiten_advantages else advantages
        columns = {
            "weights": before.mask,
            "logprobs": before.logprobs,
            "advantages": advantages if importance is None else advantages * importance,
            "values": before.values,
            "returns": experience.returns,
        }
        return rollout_data(experience.rollouts, columns)

    def update(self, number: int, data: list[Example]) -> dict[str, float]:
        """Epochs of minibatches, ended early past kl.stop_above; the numbers of all optimizer steps together."""
        c, steps = self.config, []
        for epoch in range(c.epochs):
            order = self.context.seed, "ppo-order", number, epoch
            for batch in minibatches(data, c.minibatch_size, c.replies_per_prompt, *order):
                with saving_batch(self.context, number, batch):
                    steps.append(self.minibatch(number, batch))
                if c.kl.stop_above is not None and steps[-1]["approx_kl"] > c.kl.stop_above:
                    return update_metrics(steps, epochs_done=len(steps) * c.minibatch_size / len(data))
        return update_metrics(steps, epochs_done=float(c.epochs))

    def minibatch(self, number: int, batch: list[Example]) -> dict[str, float]:
        """One optimizer step of policy and critic; during the warm-up of the critic alone."""
        c, engine, models = self.config, self.context.engine, self.models
        policy_loss = TokenLoss.of(
            "ppo_clip", clip_range=c.clip_range, entropy_coef=c.entropy_coef, temperature=c.sampling.temperature
        )
        value_loss = TokenLoss.of("value_clip", clip_range=c.critic.value_clip, coef=c.critic.value_coef)
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
        output = self.context.engine.forward_backward(self.models.policy, batch, [CROSS_ENTROPY])
        return {"ptx_loss": output.loss / self.config.ptx_coef}


def why_spent(kl: KlConfig, metrics: Mapping[str, float]) -> str | None:
    """Why the run ends if the policy whose replies were measured is farther from the reference than it may go.

    A strong reward model gets there in half the steps that a weak one needs; at the same KL their policies are alike
    in variety (Gao et al. 2022, arXiv:2210.10760, compare at equal KL for that reason).
    """
    if kl.budget is None or metrics["ppo/kl"] <= kl.budget:
        return None
    return f"the policy is {metrics['ppo/kl']:.2f} nats from the reference, past kl.budget {kl.budget}"


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
