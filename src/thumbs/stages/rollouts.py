"""Drawing a round's rollouts and cutting them into minibatches, the same way for PPO and for groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from thumbs.config.group import GroupConfig
from thumbs.config.ppo import PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import Handle
from thumbs.errors import ConfigError
from thumbs.records import Datum, Prompt, Rollout
from thumbs.rollout.collect import collect, require_unwarped, seed_of
from thumbs.stages.context import Context
from thumbs.stages.sequences import token_mean


def check_rounds(config: PpoConfig | GroupConfig) -> None:
    """Raises ConfigError for settings that do not fit each other."""
    require_unwarped(config.sampling)
    if misfit := config.misfit():
        raise ConfigError(misfit)


def roll_out(
    context: Context, policy: Handle, prompts: Sequence[Prompt], each: int, sampling: SamplingConfig, *key: int | str
) -> list[Rollout]:
    """`each` rollouts of the policy as it is, side by side, to every prompt; `key` names the round.

    Each rollout has a seed of its own. The sampler, a copy of the weights, is gone when the update begins.
    """
    asked = [prompt for prompt in prompts for _ in range(each)]
    seeds = [seed_of(context.seed, *key, row) for row in range(len(asked))]
    return collect(context.engine.snapshot(policy), asked, context.tokenizer, sampling, seeds)


def minibatches(data: Sequence[Datum], size: int, family: int, *seed: int | str) -> Iterator[list[Datum]]:
    """One epoch in a random order, each batch weighted to the mean over its sampled tokens.

    Neighbours of one family, replies to one prompt, stay neighbours: a minibatch computes their prompt once.
    """
    random = np.random.default_rng(seed_of(*seed))
    order = (random.permutation(len(data) // family)[:, None] * family + np.arange(family)).ravel()
    for start in range(0, len(data), size):
        yield token_mean([data[i] for i in order[start : start + size]])
