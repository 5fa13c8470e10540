"""Rollouts of a round, samples for the report, and minibatches, the same way for PPO and for groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from thumbs.config.rounds import RoundsConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import Handle
from thumbs.errors import ConfigError
from thumbs.records import Example, Prompt, Rollout
from thumbs.rewards.base import RewardSource, shown_scores
from thumbs.rollout.episodes import Episodes, play
from thumbs.rollout.rounds import collect, require_unwarped, seed_of
from thumbs.stages.context import Context
from thumbs.stages.sequences import token_mean

Normalise: TypeAlias = Callable[[Sequence[Example]], list[Example]]
"""From 0/1 weights of a minibatch to those that carry its normaliser."""


def check_rounds(config: RoundsConfig) -> None:
    """Raises ConfigError for settings that do not fit each other."""
    require_unwarped(config.sampling, config.section)
    if misfit := config.misfit():
        raise ConfigError(misfit)


def roll_out(
    context: Context,
    policy: Handle,
    prompts: Sequence[Prompt],
    each: int,
    sampling: SamplingConfig,
    *key: int | str,
) -> list[Rollout]:
    """`each` rollouts of the policy as it is, side by side, to every prompt; `key` names the round.

    Each rollout has a seed of its own. The sampler, a copy of the weights, is gone when the update begins.
    """
    asked = [prompt for prompt in prompts for _ in range(each)]
    seeds = [seed_of(context.seed, *key, row) for row in range(len(asked))]
    return answer(context, policy, asked, sampling, seeds)


def answer(
    context: Context,
    policy: Handle,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    seeds: Sequence[int],
    episodes: Episodes | None = None,
) -> list[Rollout]:
    """One rollout of the policy as it is to each prompt: a reply, or with `episodes` a conversation."""
    sampler = context.engine.snapshot(policy)
    if episodes is not None:
        return play(sampler, prompts, context.tokenizer, sampling, seeds, episodes)
    return collect(sampler, prompts, context.tokenizer, sampling, seeds)


def keep_samples(
    context: Context,
    policy: Handle,
    reward: RewardSource,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    episodes: Episodes | None,
    step: int,
) -> None:
    """Writes one reply and its score for each fixed prompt, with the same seeds at every step."""
    if not prompts:
        return
    seeds = [seed_of(context.seed, "fixed", row) for row in range(len(prompts))]
    rollouts = answer(context, policy, prompts, sampling, seeds, episodes)
    for prompt, rollout, score in zip(prompts, rollouts, shown_scores(reward, rollouts), strict=True):
        record = {"prompt": prompt.messages[-1].content, "text": rollout.text, "score": score}
        record["cut"] = rollout.stop_reason == "length"
        context.folder.samples.append(step, record)


def pad(rows: Sequence[np.ndarray]) -> Tensor:
    """Ragged float rows → [B, T] with zeros on the right."""
    return pad_sequence([torch.from_numpy(np.asarray(row, dtype=np.float32)) for row in rows], batch_first=True)


def rollout_data(rollouts: Sequence[Rollout], columns: Mapping[str, Tensor]) -> list[Example]:
    """One datum per rollout from columns [B, T]."""
    return [
        Example.next_token(r.tokens, **{name: x[i, : len(r.tokens) - 1].numpy() for name, x in columns.items()})
        for i, r in enumerate(rollouts)
    ]


def minibatches(
    data: Sequence[Example], size: int, family: int, *seed: int | str, normalise: Normalise = token_mean
) -> Iterator[list[Example]]:
    """One epoch in a random order, each batch weighted by `normalise`: to the mean over its sampled tokens.

    Neighbours of one family, replies to one prompt, stay neighbours: a minibatch computes their prompt once.
    """
    random = np.random.default_rng(seed_of(*seed))
    order = (random.permutation(len(data) // family)[:, None] * family + np.arange(family)).ravel()
    for start in range(0, len(data), size):
        yield normalise([data[i] for i in order[start : start + size]])
