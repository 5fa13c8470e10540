"""PPOConfig: every old field, unknown ones refused, ignored ones said aloud."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from transformers import HfArgumentParser

from thumbs.compat.trl_ppo import AdaptiveKLController, LengthSampler, PPOConfig
from thumbs.compat.trl_ppo.core import RunningMoments
from thumbs.errors import ConfigError

FIELDS_OF_0_11 = """
    exp_name seed log_with task_name model_name query_dataset reward_model remove_unused_columns tracker_kwargs
    accelerator_kwargs project_kwargs tracker_project_name push_to_hub_if_best_kwargs steps learning_rate
    adap_kl_ctrl init_kl_coef kl_penalty target horizon gamma lam cliprange cliprange_value vf_coef batch_size
    forward_batch_size mini_batch_size gradient_accumulation_steps world_size ppo_epochs max_grad_norm
    optimize_cuda_cache optimize_device_cache early_stopping target_kl compare_steps ratio_threshold
    use_score_scaling use_score_norm score_clip whiten_rewards gradient_checkpointing is_encoder_decoder
    is_peft_model backward_batch_size global_backward_batch_size global_batch_size dataset_num_proc
"""
COMMAND_LINE = "--learning_rate 1e-4 --batch_size 8 --mini_batch_size 4 --kl_penalty mse --early_stopping --target 3"


def test_every_field_of_trl_is_known():
    config = PPOConfig()
    assert [name for name in FIELDS_OF_0_11.split() if not hasattr(config, name)] == []


def test_the_defaults_are_those_of_trl():
    config = PPOConfig()
    assert (config.learning_rate, config.batch_size, config.mini_batch_size, config.ppo_epochs) == (
        1.41e-5,
        128,
        128,
        4,
    )
    assert (config.init_kl_coef, config.target, config.horizon, config.target_kl) == (0.2, 6.0, 10000.0, 1.0)
    assert (config.gamma, config.lam, config.cliprange, config.cliprange_value, config.vf_coef) == (
        1,
        0.95,
        0.2,
        0.2,
        0.1,
    )
    assert (config.ratio_threshold, config.kl_penalty, config.adap_kl_ctrl) == (10.0, "kl", True)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("batchsize", "'batch_size'"),
        ("minibatch_size", "'mini_batch_size'"),
        ("num_ppo_epochs", "'ppo_epochs'"),
        ("kl_coef", "'init_kl_coef'"),
        ("qqq", "known are exp_name"),
    ],
)
def test_an_unknown_field_names_the_nearest(name: str, hint: str):
    with pytest.raises(ConfigError, match=f"no field '{name}'.*{hint}"):
        PPOConfig(**{name: 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 10, "mini_batch_size": 4},
        {"batch_size": 8, "mini_batch_size": 4, "gradient_accumulation_steps": 4},
        {"batch_size": 0},
        {"kl_penalty": "k3"},
        {"cliprange": 0.0},
        {"lam": 1.5},
        {"is_encoder_decoder": True},
    ],
)
def test_values_that_do_not_fit_are_refused(settings: dict):
    with pytest.raises(ConfigError):
        PPOConfig(**settings)


def test_derived_fields():
    config = PPOConfig(batch_size=16, mini_batch_size=2, gradient_accumulation_steps=4, steps=100)
    assert (config.backward_batch_size, config.global_batch_size, config.total_ppo_epochs) == (8, 16, 7)
    with pytest.warns(UserWarning, match="mini_batch_size"):
        assert PPOConfig(batch_size=16, forward_batch_size=4).backward_batch_size == 4


@pytest.mark.parametrize(
    "settings",
    [{"optimize_cuda_cache": True}, {"gradient_checkpointing": True}, {"push_to_hub_if_best_kwargs": {"repo_id": "x"}}],
)
def test_what_does_nothing_is_said(settings: dict):
    with pytest.warns(UserWarning, match=f"{next(iter(settings))}.*does nothing"):
        PPOConfig(**settings)


def test_the_two_meanings_of_target_kl():
    with pytest.warns(UserWarning, match="adaptive KL"):
        assert PPOConfig(target_kl=5.0).target == 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PPOConfig(target_kl=0.1).target == 6.0
        assert PPOConfig(target_kl=5.0, target=4.0).target == 4.0
        assert PPOConfig(target_kl=5.0, early_stopping=True).target == 6.0


def test_gradients_are_clipped_unless_trl_is_reproduced():
    assert PPOConfig().grad_norm_limit == 1.0
    assert PPOConfig(max_grad_norm=0.3).grad_norm_limit == 0.3
    assert PPOConfig(max_grad_norm=math.inf).grad_norm_limit == math.inf
    assert PPOConfig(reproduce_trl=True).grad_norm_limit == math.inf


def test_it_is_read_from_a_command_line():
    (config,) = HfArgumentParser(PPOConfig).parse_args_into_dataclasses(COMMAND_LINE.split())
    assert (config.learning_rate, config.backward_batch_size, config.kl_penalty) == (1e-4, 4, "mse")
    assert config.early_stopping is True
    assert config.target == 3.0


def test_nested_settings_are_flattened():
    assert PPOConfig(tracker_kwargs={"wandb": {"name": "x"}}).to_dict()["tracker_kwargs/wandb"] == {"name": "x"}


def test_lengths_leave_the_upper_end_out():
    sampler = LengthSampler(2, 5)
    assert {sampler() for _ in range(100)} == {2, 3, 4}
    with pytest.raises(ConfigError):
        LengthSampler(5, 5)


def test_the_coefficient_follows_the_kl():
    control = AdaptiveKLController(0.2, target=6.0, horizon=100)
    control.update(12.0, 10)  # twice the target: the error is cut at 0.2
    assert control.value == pytest.approx(0.2 * (1 + 0.2 * 10 / 100))
    control.update(6.0, 10)
    assert control.value == pytest.approx(0.2 * 1.02)


def test_running_moments_are_those_of_all_scores():
    running, parts = RunningMoments(), [[1.0, 4.0], [2.0], [-3.0, 0.5, 8.0]]
    assert running.std == 1.0
    for part in parts:
        running.update(torch.tensor(part))
    whole = torch.tensor([x for part in parts for x in part])
    assert running.mean == pytest.approx(float(whole.mean()))
    assert running.std == pytest.approx(float(whole.std()))
