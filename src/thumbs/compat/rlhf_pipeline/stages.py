"""The flat settings as those of our stages, and what a stage leaves so that it is resumed, skipped or done anew."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

from thumbs.compat.rlhf_pipeline.settings import RLHFConfig
from thumbs.config.data import DataConfig
from thumbs.config.direct import DirectConfig
from thumbs.config.losses import ScoreLoss
from thumbs.config.optim import AdamConfig
from thumbs.config.ppo import CriticConfig, PpoConfig
from thumbs.config.reward_model import REWARD_METHODS, RewardModelConfig
from thumbs.config.sampling import SamplingConfig
from thumbs.config.sft import SftConfig
from thumbs.engine.objectives import OBJECTIVES, is_objective
from thumbs.errors import ConfigError
from thumbs.pipeline.identity import IDENTITY, Identity, changes, read_identity
from thumbs.tracking.files import plain, read_json
from thumbs.tracking.run_folder import empty

T = TypeVar("T")

log = logging.getLogger(__name__)

HEAD_RATE = 1e-3
"""Lowest peak rate of the reward model's head, which is new."""

SAVE_EVERY = 5
"""Rounds of PPO between the checkpoints from which an interrupted run goes on."""


def sft_settings(c: RLHFConfig) -> SftConfig:
    """SFT: linear warm-up, cosine decay, the best checkpoint by held-out loss."""
    optim = AdamConfig(learning_rate=c.sft_lr)
    return SftConfig(
        data=DataConfig(path=c.sft_data_path), epochs=c.sft_epochs, batch_size=c.sft_batch_size, optim=optim
    )


def reward_settings(c: RLHFConfig) -> tuple[RewardModelConfig, ScoreLoss | None]:
    """The reward model's settings, and the registered objective that takes the place of its loss."""
    ours = [method.name for method in REWARD_METHODS.values() if method.form == "pairs"]
    is_own = is_objective(c.reward_objective)
    if not is_own and c.reward_objective not in ours:
        raise ConfigError(
            f"reward_objective: got {c.reward_objective!r}; allowed are {', '.join((*ours, *OBJECTIVES.names))}, "
            "what register_reward_objective adds, and module:name"
        )
    fields: dict[str, Any] = {} if is_own else {"loss": c.reward_objective}
    settings = RewardModelConfig(
        epochs=c.reward_epochs,
        batch_size=c.reward_batch_size,
        optim=AdamConfig(learning_rate=c.reward_lr, head_learning_rate=max(c.reward_lr, HEAD_RATE)),
        freeze_backbone=c.freeze_reward_backbone,
        **fields,
    )
    return settings, ScoreLoss.of(c.reward_objective) if is_own else None


def ppo_settings(c: RLHFConfig, iterations: int, max_new_tokens: int) -> PpoConfig:
    """PPO up to round `iterations`: constant rates, a critic of its own, scores of deviation 1, adaptive KL."""
    return PpoConfig(
        prompts=DataConfig(path=c.ppo_data_path),
        steps=iterations,
        batch_size=c.ppo_batch_size,
        minibatch_size=nearest_divisor(c.ppo_batch_size, c.ppo_mini_batch_size),
        epochs=c.ppo_epochs,
        optim=AdamConfig(learning_rate=c.ppo_lr_policy, schedule="constant", warmup_fraction=0.0),
        sampling=SamplingConfig(max_new_tokens=max_new_tokens),
        critic=CriticConfig(init="policy", learning_rate=c.ppo_lr_value),
        save_every=min(SAVE_EVERY, c.save_interval),
    )


def preference_settings(c: RLHFConfig, method: str) -> DirectConfig:
    """DPO's or KTO's settings: linear warm-up, cosine decay, the best checkpoint by held-out loss."""
    return DirectConfig(
        method=method,
        beta=c.preference_beta,
        epochs=c.preference_epochs,
        batch_size=c.preference_batch_size,
        optim=AdamConfig(learning_rate=c.preference_lr),
    )


def nearest_divisor(batch: int, wanted: int) -> int:
    """The divisor of `batch` that is nearest to `wanted` in proportion; the smaller of two that are as near."""
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    return min(divisors, key=lambda n: (abs(math.log(n / wanted)), n))


def say_batches(c: RLHFConfig, prompts: int) -> None:
    """Logs where the sizes of PPO's batches are others than were asked for."""
    minibatch = nearest_divisor(c.ppo_batch_size, c.ppo_mini_batch_size)
    if minibatch != c.ppo_mini_batch_size:
        text = "ppo_mini_batch_size=%d does not divide ppo_batch_size=%d; %d, the nearest that does, is used"
        log.warning(text, c.ppo_mini_batch_size, c.ppo_batch_size, minibatch)
    if again := -prompts % c.ppo_batch_size:
        text = "%d prompts do not fill batches of %d rollouts; %d are drawn again in each pass"
        log.info(text, prompts, c.ppo_batch_size, again)


def reply_budget(longest_prompt: int, limit: int) -> int:
    """Tokens that a rollout may sample: what the longest prompt leaves of `limit`, at most half of it."""
    return min(max(limit // 2, 1), limit - longest_prompt)


def prompt_limit(limit: int) -> int:
    """Tokens that a prompt may have, so that a quarter of `limit` is left for the reply."""
    return limit - max(limit // 4, 1)


def whole_batches(rows: Sequence[T], size: int) -> list[T]:
    """The rows, the first of them again where that makes every batch a full one."""
    return list(islice(cycle(rows), len(rows) + -len(rows) % size))


def milestones(iterations: int, interval: int) -> list[int]:
    """Rounds after which PPO's policy is written: every `interval`, and the last."""
    return sorted({*range(interval, iterations + 1, interval), iterations})


def begin(folder: Path, asked: Mapping[str, Any], output: Path) -> bool:
    """Prepares the folder of a stage; True if the same was asked before and is done.

    Where something else was asked, what that run left goes, but for its .pt, which stays until the new one takes its
    place.
    """
    wanted, before = Identity(plain(asked)), read_identity(folder)
    if before == wanted:
        return (folder / "done.json").exists() and output.exists()
    if before is not None:
        log.info("%s: begins anew: %s", folder.name, "; ".join(changes(before, wanted)))
        empty(folder, keep=[output.name, IDENTITY])
    wanted.write(folder)
    return False


def reached(folder: Path) -> int:
    """The step of the newest checkpoint of an interrupted stage; 0 where there is none."""
    latest = folder / "checkpoints" / "latest.json"
    return int(read_json(latest)["step"]) if latest.exists() else 0
