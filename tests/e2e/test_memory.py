"""A long run needs no more memory than a short one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from byte_world import byte_context, prompt
from thumbs.config.data import DataConfig
from thumbs.config.ppo import CriticConfig, KlConfig, PpoConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.rewards.base import CallableReward
from thumbs.stages.ppo import Ppo
from thumbs.stages.ppo_run import create_models

STATM = Path("/proc/self/statm")


@pytest.mark.skipif(not STATM.exists(), reason="resident memory is read from /proc")
def test_memory_stays_flat_over_two_hundred_steps_of_ppo(tmp_path: Path):
    context = byte_context(tmp_path)
    config = PpoConfig(
        prompts=DataConfig(path="none"),
        steps=200,
        batch_size=4,
        minibatch_size=4,
        epochs=1,
        kl=KlConfig(stop_above=None),
        critic=CriticConfig(init="shared"),
        sampling=SamplingConfig(max_new_tokens=4),
    )
    reward = CallableReward(lambda rollout: float(rollout.reply_length))
    models = create_models(context, config, None, None)
    ppo = Ppo(context, config, models, reward, [prompt(letter) for letter in "abcdefgh"])
    kl_coef, used = config.kl.coef, []
    for step in range(config.steps):
        report = ppo.step(step, kl_coef)
        context.folder.metrics.log(step, report.metrics)
        kl_coef = report.kl_coef
        used.append(resident())
    # The first steps fill the allocator's pools.
    early, late = max(used[40:60]), min(used[-20:])
    assert late <= 1.02 * early, f"{early / 2**20:.0f} MiB after 60 steps, {late / 2**20:.0f} MiB at the end"


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
