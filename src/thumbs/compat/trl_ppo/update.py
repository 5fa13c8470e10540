"""The epochs of a step: minibatches through the engine's PPO and value losses, and what each of them saw."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.engine import apply, forward_backward_if
from thumbs.compat.trl_ppo.experience import bessel
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead
from thumbs.config.losses import TokenLoss
from thumbs.functional.kl import kl_estimate
from thumbs.functional.masked import masked_mean, masked_var
from thumbs.functional.normalise import token_mean_weights
from thumbs.functional.policy_losses import ppo_clip
from thumbs.functional.value_losses import value_clip
from thumbs.records import TrainOutput
from thumbs.stages.ppo_report import Experience
from thumbs.stages.rollouts import pad, rollout_data

Seen = dict[str, Tensor]


def update(
    model: AutoModelForCausalLMWithValueHead,
    optimizer: torch.optim.Optimizer,
    learned: Experience,
    config: PPOConfig,
    temperature: float,
) -> list[Seen]:
    """All epochs, ended early past 1.5 · target_kl if `early_stopping`; the statistics of every minibatch."""
    seen: list[Seen] = []
    size, together = config.mini_batch_size, config.mini_batch_size * config.gradient_accumulation_steps
    for _ in range(config.ppo_epochs):
        order = np.random.permutation(len(learned.rollouts))
        for start in range(0, len(order), together):
            parts = [order[i : i + size] for i in range(start, start + together, size)]
            masks = [learned.before.mask[part] for part in parts]
            # Every token weighs the same however the step is cut; TRL gave every minibatch the same weight.
            weights = token_mean_weights(masks)
            if config.reproduce_trl:
                weights = [token_mean_weights([mask])[0] / len(masks) for mask in masks]
            for part, own in zip(parts, weights, strict=True):
                seen.append(_minibatch(model, learned, part, own, config, temperature))
            apply(model.engine.model(model.handle), optimizer, config.grad_norm_limit)
        if config.early_stopping and seen[-1]["policy/policykl"] > 1.5 * config.target_kl:
            break
    return seen


def _minibatch(
    model: AutoModelForCausalLMWithValueHead,
    learned: Experience,
    part: np.ndarray,
    weights: Tensor,
    config: PPOConfig,
    temperature: float,
) -> Seen:
    """Adds the gradients of one minibatch, unless its ratio is beyond the threshold."""
    columns = {
        "weights": weights,
        "logprobs": learned.before.logprobs[part],
        "advantages": learned.advantages[part],
        "values": learned.before.values[part],
        "returns": learned.returns[part],
    }
    data = rollout_data([learned.rollouts[i] for i in part], columns)
    policy_loss = TokenLoss.of("ppo_clip", clip_range=config.cliprange, temperature=temperature)
    value_loss = TokenLoss.of("value_clip", clip_range=config.cliprange_value, coef=config.vf_coef)
    seen: Seen = {}

    def keep(output: TrainOutput) -> bool:
        seen.update(_statistics(columns, learned.before.mask[part], output, config))
        return bool(seen["ratio_mean"] <= config.ratio_threshold)

    forward_backward_if(model.engine, model.handle, data, [policy_loss, value_loss], keep)
    if seen["ratio_mean"] > config.ratio_threshold:
        warnings.warn(
            f"The average ratio of batch ({float(seen['ratio_mean']):.2f}) exceeds threshold "
            f"{config.ratio_threshold:.2f}. Skipping batch.",
            stacklevel=5,
        )
        seen |= {name: torch.zeros(()) for name in ("loss/policy", "loss/value", "loss/total")}
    del seen["ratio_mean"]
    return seen


def _statistics(columns: Seen, mask: Tensor, output: TrainOutput, config: PPOConfig) -> Seen:
    """Means over the counted tokens of one minibatch, and ratio and advantage of each of them."""
    logprobs, values = (
        torch.nn.functional.pad(x, (0, mask.shape[1] - x.shape[1]))
        for x in (pad([o.logprobs for o in output.outputs]), pad([o.values for o in output.outputs]))
    )
    old, old_values = columns["logprobs"], columns["values"]
    advantages, returns = columns["advantages"], columns["returns"]
    (weights,) = token_mean_weights([mask])
    policy, of_policy = ppo_clip(logprobs, old, advantages, weights, clip_range=config.cliprange)
    value, of_values = value_clip(values, old_values, returns, weights, clip_range=config.cliprange_value)
    ratio = (logprobs - old).exp()
    clipped = -advantages * ratio.clamp(1 - config.cliprange, 1 + config.cliprange) > -advantages * ratio
    correction = bessel(mask) if config.reproduce_trl else 1.0
    counted = mask != 0
    return {
        "loss/policy": policy,
        "loss/value": value,
        "loss/total": policy + config.vf_coef * value,
        "policy/entropy": torch.tensor(output.metrics["ppo_clip/entropy"]),
        "policy/approxkl": masked_mean(kl_estimate(logprobs, old, "k2"), mask),
        "policy/policykl": masked_mean(kl_estimate(old, logprobs, "k1"), mask),
        "policy/clipfrac": masked_mean(clipped.float(), mask),
        "policy/advantages": advantages[counted],
        "policy/advantages_mean": masked_mean(advantages, mask),
        "policy/ratio": ratio[counted],
        "returns/mean": masked_mean(returns, mask),
        "returns/var": masked_var(returns, mask) * correction,
        "val/vpred": masked_mean(values, mask),
        "val/error": of_values["value_error"],
        "val/clipfrac": of_values["value_clip_fraction"],
        "val/mean": masked_mean(old_values, mask),
        "val/var": masked_var(old_values, mask) * correction,
        "ratio_mean": of_policy["ratio"],
    }
