"""The epochs of a step: minibatches through the engine's PPO and value losses, and what each of them saw."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.engine import apply, forward_backward_if
from thumbs.compat.trl_ppo.experience import StepExperience, bessel
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead
from thumbs.config.losses import TokenLoss
from thumbs.functional.kl import kl_estimate
from thumbs.functional.masked import masked_mean, masked_var
from thumbs.functional.normalise import token_mean_weights
from thumbs.functional.policy_losses import ppo_clip
from thumbs.functional.value_losses import value_clip
from thumbs.records import Example, TrainOutput
from thumbs.stages.rollouts import pad

Seen = dict[str, Tensor]


def update(
    model: AutoModelForCausalLMWithValueHead,
    optimizer: torch.optim.Optimizer,
    learned: StepExperience,
    config: PPOConfig,
    temperature: float,
) -> list[Seen]:
    """All epochs, ended early past 1.5 · target_kl if `early_stopping`; the statistics of every minibatch."""
    seen: list[Seen] = []
    size, count = config.mini_batch_size, len(learned.scores)
    together = config.mini_batch_size * config.gradient_accumulation_steps
    for _ in range(config.ppo_epochs):
        order = np.random.permutation(count)
        for start in range(0, count, together):
            parts = [order[i : i + size] for i in range(start, start + together, size)]
            for part, weights in zip(parts, _weights(learned, parts, config), strict=True):
                seen.append(_minibatch(model, learned, part, weights, config, temperature))
            apply(model.engine.model(model.handle), optimizer, config.grad_norm_limit)
        if config.early_stopping and seen[-1]["policy/policykl"] > 1.5 * config.target_kl:
            break
    return seen


def _weights(learned: StepExperience, parts: Sequence[np.ndarray], config: PPOConfig) -> list[Tensor]:
    """Token weights [b, T] of the minibatches that make one optimizer step.

    Every token weighs the same however the step is cut; TRL gave every minibatch the same weight.
    """
    masks = [learned.forward.mask[part] for part in parts]
    if config.reproduce_trl:
        return [token_mean_weights([mask])[0] / len(masks) for mask in masks]
    return token_mean_weights(masks)


def _minibatch(
    model: AutoModelForCausalLMWithValueHead,
    learned: StepExperience,
    part: np.ndarray,
    weights: Tensor,
    config: PPOConfig,
    temperature: float,
) -> Seen:
    """Adds the gradients of one minibatch, unless its ratio is beyond the threshold."""
    forward = learned.forward
    columns = {
        "weights": weights,
        "logprobs": forward.logprobs[part],
        "advantages": learned.advantages[part],
        "values": forward.values[part],
        "returns": learned.returns[part],
    }
    data = [
        Example.next_token(tokens, **{name: x[row, : len(tokens) - 1].numpy() for name, x in columns.items()})
        for row, tokens in enumerate(forward.tokens[i] for i in part)
    ]
    policy_loss = TokenLoss.of("ppo_clip", clip_range=config.cliprange, temperature=temperature)
    value_loss = TokenLoss.of("value_clip", clip_range=config.cliprange_value, coef=config.vf_coef)
    seen: Seen = {}

    def keep(output: TrainOutput) -> bool:
        seen.update(_statistics(learned, part, output, config))
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


def _statistics(learned: StepExperience, part: np.ndarray, output: TrainOutput, config: PPOConfig) -> Seen:
    """Means over the counted tokens of one minibatch, and ratio and advantage of each of them."""
    width = learned.forward.mask.shape[1]
    logprobs, values = (
        torch.nn.functional.pad(x, (0, width - x.shape[1]))
        for x in (pad([o.logprobs for o in output.outputs]), pad([o.values for o in output.outputs]))
    )
    mask, old, old_values = (x[part] for x in (learned.forward.mask, learned.forward.logprobs, learned.forward.values))
    advantages, returns = learned.advantages[part], learned.returns[part]
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
