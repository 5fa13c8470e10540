"""What a step learns from: logprobs, values, KL, token rewards, advantages and returns of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.core import RunningMoments
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead
from thumbs.errors import ConfigError
from thumbs.functional.advantages import gae
from thumbs.functional.kl import kl_estimate
from thumbs.functional.masked import masked_mean, masked_var, whiten
from thumbs.records import Example, Rollout, Score
from thumbs.stages.ppo_report import Experience, Predictions
from thumbs.stages.rollouts import pad


@dataclass(frozen=True, eq=False)
class Before:
    """What the models say of a batch before its update, and the KL of each token, nats, [B, T], 0 where mask is 0."""

    rollouts: Sequence[Rollout]
    predictions: Predictions
    kl: Tensor


def predict(
    model: AutoModelForCausalLMWithValueHead,
    reference: AutoModelForCausalLMWithValueHead,
    rollouts: Sequence[Rollout],
    config: PPOConfig,
    temperature: float,
) -> Before:
    """Logprobs of policy and reference at `temperature`, values, and the KL by config.kl_penalty."""
    data = [Example.next_token(rollout.tokens, weights=rollout.mask) for rollout in rollouts]
    policy = model.engine.forward(model.handle, data, temperature=temperature)
    fixed = reference.engine.forward(reference.handle, data, temperature=temperature)
    mask, logprobs, reference_logprobs = (
        pad(rows)
        for rows in ([r.mask for r in rollouts], [o.logprobs for o in policy], [o.logprobs for o in fixed])
    )  # fmt: skip
    if config.kl_penalty == "full":
        kl = pad([_exact_kl(model, reference, rollout, temperature) for rollout in rollouts])
    else:
        kl = kl_estimate(logprobs, reference_logprobs, "k2" if config.kl_penalty == "mse" else "k1") * mask
        kl = kl.abs() if config.kl_penalty == "abs" else kl
    values = pad([output.values for output in policy]) * mask
    return Before(rollouts, Predictions(mask, logprobs, reference_logprobs, values), kl)


def experience_of(before: Before, scores: Sequence[Score], rewards: Tensor, config: PPOConfig) -> Experience:
    """Token rewards [B, T] with their advantages, whitened over the batch, and returns."""
    p = before.predictions
    if config.whiten_rewards:
        rewards = _whiten(rewards, p.mask, config, shift_mean=False)
    steps = torch.ones_like(p.mask) if config.reproduce_trl else p.mask  # TRL's γ and λ run through tokens left out
    advantages, _ = gae(rewards, p.values, steps, config.gamma, config.lam)
    returns = (advantages + p.values) * p.mask
    return Experience(before.rollouts, scores, p, rewards, _whiten(advantages, p.mask, config), returns, None)


def trained_scores(scores: Sequence[Score], running: RunningMoments, config: PPOConfig) -> Tensor:
    """Scores [B] after scaling by the running deviation, subtraction of the running mean, and clipping."""
    values = torch.tensor([score.value for score in scores])
    if any(score.tokens is not None for score in scores) and (config.use_score_scaling or config.score_clip):
        raise ConfigError(
            "use_score_scaling and score_clip are for one score a response; scale rewards per token yourself"
        )
    if config.use_score_scaling:
        running.update(values)
        if config.use_score_norm:
            values = values - running.mean
        values = values / (running.std + torch.finfo(values.dtype).eps)
    return values if config.score_clip is None else values.clamp(-config.score_clip, config.score_clip)


def bessel(mask: Tensor) -> float:
    """n / (n - 1), which makes a population variance of n counted tokens the sample variance; 1 for one token."""
    n = float((mask != 0).sum())
    return n / (n - 1) if n > 1 else 1.0


def _whiten(x: Tensor, mask: Tensor, config: PPOConfig, shift_mean: bool = True) -> Tensor:
    if not config.reproduce_trl:
        return whiten(x, mask, shift_mean)
    mean, variance = masked_mean(x, mask), masked_var(x, mask) * bessel(mask)
    white = (x - mean) * (variance + 1e-8).rsqrt()  # under mask 0 too, from where whitened rewards reach the advantages
    return white if shift_mean else white + mean


@torch.no_grad()
def _exact_kl(
    model: AutoModelForCausalLMWithValueHead,
    reference: AutoModelForCausalLMWithValueHead,
    rollout: Rollout,
    temperature: float,
) -> np.ndarray:
    """KL(π ‖ π_ref) = Σ_v π_v (log π_v - log π_ref,v) at each counted target, nats, 0 elsewhere."""
    places, tokens = np.flatnonzero(rollout.mask), torch.from_numpy(rollout.tokens)[None]
    logp, logq = (
        (each.logits(each.states(tokens)[0, places]) / temperature).log_softmax(1).cpu()
        for each in (model.pretrained_model, reference.pretrained_model)
    )
    kl = np.zeros_like(rollout.mask)
    kl[places] = (logp.exp() * (logp - logq)).sum(1).numpy()
    return kl
