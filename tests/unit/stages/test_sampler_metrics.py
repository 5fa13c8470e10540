"""How far sampler and trainer are apart, by hand, and when a step measures it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from thumbs.config.engine import RolloutConfig
from thumbs.records import Rollout
from thumbs.stages.ppo_report import sampler_metrics


def rollout(*sampled: float) -> Rollout:
    """Two tokens of a prompt, then one reply token per logprob."""
    count = len(sampled)
    return Rollout(
        prompt_id="a",
        tokens=np.arange(count + 2),
        prompt_length=2,
        mask=np.r_[0.0, np.ones(count)].astype(np.float32),
        logprobs=np.r_[0.0, sampled].astype(np.float32),
        stop_reason="eos",
        policy_version=0,
        text="",
    )


def test_the_share_of_tokens_that_are_off_and_the_distances():
    rollouts = [rollout(-1.0, -2.0, -3.0), rollout(-1.0)]
    ratios = [[1.0, 1.05, 1.2], [0.8, 1.0, 1.0]]  # what stands behind the second reply is padding
    trained = torch.tensor(
        [[9.0, *(s + math.log(r) for s, r in zip(row, own, strict=False))] for row, own in
         zip([(-1.0, -2.0, -3.0), (-1.0, 0.0, 0.0)], ratios, strict=True)]
    )  # fmt: skip
    found = sampler_metrics("ppo", rollouts, trained)
    gaps = [abs(math.log(r)) for r in (1.0, 1.05, 1.2, 0.8)]
    assert found["ppo/sampler_gap"] == pytest.approx(sum(gaps) / 4, abs=1e-6)
    assert found["ppo/sampler_gap_p95"] == pytest.approx(np.percentile(gaps, 95), abs=1e-6)
    assert found["ppo/sampler_off"] == 0.5


@pytest.mark.parametrize(
    ("config", "off"),
    [(RolloutConfig(), False), (RolloutConfig(staleness=1), True), (RolloutConfig(kind="vllm"), True)],
)
def test_replies_of_older_weights_or_of_another_program_are_off_policy(config: RolloutConfig, off: bool):
    assert config.is_off_policy is off
