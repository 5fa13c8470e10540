"""What a step learns from: logprobs, values, KL, token rewards, advantages and returns of one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.core import RunningMoments
from thumbs.compat.trl_ppo.inputs import QueryBatch
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead
from thumbs.errors import ConfigError
from thumbs.functional.advantages import gae
from thumbs.functional.kl import kl_estimate
from thumbs.functional.masked import masked_mean, masked_var, whiten
from thumbs.records import Example
from thumbs.rewards.shaping import token_rewards
from thumbs.stages.rollouts import pad

Penalty = Literal["kl", "abs", "mse", "full"]


@dataclass(frozen=True, eq=False)
class ForwardResults:
    """What the models say of a batch before its update, [B, T] by target, 0 where mask is 0. logprobs and kl: nats;
    values: score units.
    """

    tokens: list[np.ndarray]
    mask: Tensor
    logprobs: Tensor
    reference_logprobs: Tensor
    values: Tensor
    kl: Tensor


@dataclass(frozen=True, eq=False)
class StepExperience:
    """`forward`, and what follows from the scores [B] that are trained on; [B, T], score units."""

    forward: ForwardResults
    scores: Tensor
    non_score_rewards: Tensor
    advantages: Tensor
    returns: Tensor


def forward_batch(
    model: AutoModelForCausalLMWithValueHead,
    reference: AutoModelForCausalLMWithValueHead,
    batch: QueryBatch,
    penalty: Penalty,
    temperature: float,
) -> ForwardResults:
    """Logprobs of policy and reference at `temperature`, values, and the KL of each token."""
    tokens = [np.concatenate(pair) for pair in zip(batch.queries, batch.responses, strict=True)]
    masks = [batch.by_target(i, mask) for i, mask in enumerate(batch.masks)]
    data = [Example.next_token(row, weights=mask) for row, mask in zip(tokens, masks, strict=True)]
    policy = model.engine.forward(model.handle, data, temperature=temperature)
    fixed = reference.engine.forward(reference.handle, data, temperature=temperature)
    mask, logprobs = pad(masks), pad([output.logprobs for output in policy])
    reference_logprobs = pad([output.logprobs for output in fixed])
    values = pad([output.values for output in policy]) * mask
    if penalty == "full":
        kl = pad(
            [_exact_kl(model, reference, row, where, temperature) for row, where in zip(tokens, masks, strict=True)]
        )
    else:
        kl = kl_estimate(logprobs, reference_logprobs, "k2" if penalty == "mse" else "k1") * mask
        kl = kl.abs() if penalty == "abs" else kl
    return ForwardResults(tokens, mask, logprobs, reference_logprobs, values, kl)


def shape_rewards(forward: ForwardResults, batch: QueryBatch, scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
    """Token rewards [B, T], -kl_coef · KL and the score at the last counted token; and their part without scores."""
    mask = forward.mask
    price = token_rewards(torch.zeros_like(scores), forward.kl, mask, kl_coef)
    single = torch.tensor([each is None for each in batch.token_rewards])
    rewards = token_rewards(torch.where(single, scores, 0.0), forward.kl, mask, kl_coef)
    for i, each in enumerate(batch.token_rewards):
        if each is not None:
            row = torch.from_numpy(batch.by_target(i, each))
            rewards[i, : len(row)] += row * mask[i, : len(row)]
    return rewards, price


def advantages_of(forward: ForwardResults, rewards: Tensor, config: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages, whitened over the batch, and returns, [B, T]."""
    mask = forward.mask
    if config.whiten_rewards:
        rewards = _whiten(rewards, mask, config, shift_mean=False)
    steps = torch.ones_like(mask) if config.reproduce_trl else mask  # TRL lets γ and λ run through tokens left out
    advantages, _ = gae(rewards, forward.values, steps, config.gamma, config.lam)
    return _whiten(advantages, mask, config), (advantages + forward.values) * mask


def trained_scores(batch: QueryBatch, running: RunningMoments, config: PPOConfig) -> Tensor:
    """Scores [B] after scaling by the running deviation, subtraction of the running mean, and clipping."""
    scores = batch.scores.clone()
    if any(each is not None for each in batch.token_rewards) and (config.use_score_scaling or config.score_clip):
        raise ConfigError(
            "use_score_scaling and score_clip are for one score a response; scale rewards per token yourself"
        )
    if config.use_score_scaling:
        running.update(scores)
        if config.use_score_norm:
            scores = scores - running.mean
        scores = scores / (running.std + torch.finfo(scores.dtype).eps)
    return scores if config.score_clip is None else scores.clamp(-config.score_clip, config.score_clip)


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
    tokens: np.ndarray,
    mask: np.ndarray,
    temperature: float,
) -> np.ndarray:
    """KL(π ‖ π_ref) = Σ_v π_v (log π_v - log π_ref,v) at each counted target, nats, 0 elsewhere."""
    places = np.flatnonzero(mask)
    logp, logq = (
        (each.pretrained_model.logits(each.pretrained_model.states(torch.from_numpy(tokens)[None])[0, places])
         / temperature).log_softmax(1).cpu()
        for each in (model, reference)
    )  # fmt: skip
    kl = np.zeros_like(mask)
    kl[places] = (logp.exp() * (logp - logq)).sum(1).numpy()
    return kl
