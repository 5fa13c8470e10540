"""Policies kept where their KL first passes a level."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from byte_world import byte_context, prompt
from thumbs.config.base import build_config
from thumbs.config.direct import DirectConfig
from thumbs.config.group import GroupConfig
from thumbs.config.losses import CROSS_ENTROPY
from thumbs.config.ppo import PpoConfig
from thumbs.config.rejection import RejectionConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.engine.base import AdamStep, ModelSpec
from thumbs.errors import ConfigError
from thumbs.records import Example, Rollout
from thumbs.rewards.base import CallableReward
from thumbs.stages.context import Context
from thumbs.stages.group import run_group
from thumbs.stages.milestones import check_frontier, keep_milestones, milestones
from thumbs.stages.online_dpo import run_online_dpo
from thumbs.stages.ppo_run import run_ppo
from thumbs.stages.rejection import run_rejection


def test_each_level_keeps_the_policy_that_passed_it_first(tmp_path: Path):
    context = replace(byte_context(tmp_path), frontier=(10.0, 2.0, 0.5, 30.0))
    policy = context.engine.create(ModelSpec("policy", context.model))
    data = [Example.next_token(list(b"abcdefgh"), weights=np.ones(7))]
    seen = []
    for kl in (0.4, 0.6, 0.1, 2.5, 12.0):
        context.engine.forward_backward(policy, data, [CROSS_ENTROPY])
        context.engine.optim_step(policy, AdamStep(1e-3, 1e-3))
        seen.append(context.engine.forward(policy, data)[0].logprobs)
        keep_milestones(context, policy, kl)
    found = milestones(context.folder.path)
    assert [level for level, _ in found] == ["0.5", "2", "10"]  # 30 nats were never reached
    for (_, path), expected in zip(found, (seen[1], seen[3], seen[4]), strict=True):
        kept = context.engine.create(ModelSpec("kept", context.model, start=path, trainable=False))
        np.testing.assert_array_equal(context.engine.forward(kept, data)[0].logprobs, expected)


def test_a_policy_that_passes_several_levels_is_kept_once_at_the_highest(tmp_path: Path):
    context = replace(byte_context(tmp_path), frontier=(0.5, 1.0, 2.0, 8.0))
    policy = context.engine.create(ModelSpec("policy", context.model))
    for kl in (3.0, 1.5, 9.0):
        keep_milestones(context, policy, kl)
    assert [level for level, _ in milestones(context.folder.path)] == ["2", "8"]


def odd(rollout: Rollout) -> float:
    """A score that differs between replies."""
    return float((rollout.tokens[rollout.prompt_length :] % 7).sum())


PROMPTS = [prompt(word) for word in ("one", "two", "three", "four")]
COMMON: dict[str, Any] = {"optim": {"learning_rate": 3e-3, "schedule": "constant", "warmup_fraction": 0.0}}
BATCHES = {"batch_size": 8, "minibatch_size": 8, "epochs": 1}
ROUNDS: dict[str, Any] = COMMON | {"prompts": {"path": "unused"}, "sampling": {"max_new_tokens": 6}}


def ppo(context: Context, steps: int) -> None:
    run_ppo(
        context,
        build_config(PpoConfig, ROUNDS | {"batch_size": 8, "minibatch_size": 4, "steps": steps}),
        CallableReward(odd),
        None,
        PROMPTS,
    )


def group(context: Context, steps: int) -> None:
    settings = ROUNDS | BATCHES | {"steps": steps, "group_size": 2}
    run_group(context, build_config(GroupConfig, settings), CallableReward(odd), None, PROMPTS)


def online_dpo(context: Context, steps: int) -> None:
    online = {"prompts": {"path": "unused"}, "steps": steps, "sampling": {"max_new_tokens": 6}}
    settings = COMMON | {"method": "online_dpo", "batch_size": 4, "epochs": 1, "eval_every": 1, "online": online}
    run_online_dpo(context, build_config(DirectConfig, settings), CallableReward(odd), None, PROMPTS)


def rejection(context: Context, steps: int) -> None:
    settings = ROUNDS | {"rounds": steps, "replies_per_prompt": 4}
    run_rejection(context, build_config(RejectionConfig, settings), CallableReward(odd), None, PROMPTS)


@pytest.mark.parametrize("train", [ppo, group, online_dpo, rejection])
def test_what_is_kept_is_the_policy_whose_replies_were_measured(tmp_path: Path, train: Callable[[Context, int], None]):
    """The second round's replies are the first that are any distance away; one update led to the policy behind them."""
    train(byte_context(tmp_path / "one"), 1)
    train(replace(byte_context(tmp_path / "two"), frontier=(1e-3,)), 2)
    ((_, kept),) = milestones(tmp_path / "two")
    stored, expected = (load_file(folder / "model.safetensors") for folder in (kept, tmp_path / "one" / "model"))
    assert all(torch.equal(stored[name], expected[name]) for name in expected)


@pytest.mark.parametrize("warped", [{"top_p": 0.9}, {"top_k": 3}, {"temperature": 0.0}])
def test_levels_of_a_kl_that_cannot_be_measured_are_refused(tmp_path: Path, warped: dict[str, float]):
    context = replace(byte_context(tmp_path), frontier=(1.0,))
    with pytest.raises(ConfigError, match=r"evaluation\.frontier keeps .* rejection\.sampling has"):
        check_frontier(context, build_config(SamplingConfig, warped), "rejection")
    check_frontier(byte_context(tmp_path), build_config(SamplingConfig, warped), "rejection")


def test_without_levels_nothing_is_kept(tmp_path: Path):
    context = byte_context(tmp_path)
    policy = context.engine.create(ModelSpec("policy", context.model))
    keep_milestones(context, policy, 100.0)
    assert milestones(context.folder.path) == []
    assert not list(context.folder.path.rglob("at-kl"))
