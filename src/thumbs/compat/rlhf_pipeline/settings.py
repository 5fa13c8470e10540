"""The flat settings of the pipeline API, checked when they are made and whenever one is assigned."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from thumbs.compat.settings import CheckedSettings, Count
from thumbs.config.base import read_settings_file
from thumbs.errors import ConfigError


def _device(name: str) -> str:
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name) is None:
        raise ValueError("allowed are auto, cpu, mps, cuda and cuda:N")
    return name


def _level(value: Any) -> Any:
    return logging.getLevelName(value) if isinstance(value, int) else str(value).upper()


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Device = Annotated[str, AfterValidator(_device)]
Level = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_level)]


@dataclass
class RLHFConfig(CheckedSettings):
    """Settings of SFT, reward model and PPO in one flat list.

    They may be assigned after the object is made; each assignment is checked and raises ConfigError naming the setting,
    the value and what is allowed. Rates are per optimizer step, lengths in tokens, every weight is trained (no LoRA).
    """

    model_name: str = "byte-tiny"
    """Base model where load_base_model is not called: a catalog name, a folder, a .gguf file, a hub name or our .pt."""
    tokenizer_path: str | None = None
    """A tokenizer folder, a tokenizer.json, or "byte"; null: the base model's own."""
    device: Device = "auto"
    """auto takes CUDA where there is one, else MPS, else the CPU."""
    sft_data_path: str = "data/sft_data.jsonl"
    """Conversations."""
    sft_epochs: Count = 3
    """Passes over the conversations."""
    sft_lr: Rate = 5e-5
    """Peak rate of SFT."""
    sft_batch_size: Count = 32
    """Conversations an optimizer step."""
    reward_data_path: str = "data/preference_data.jsonl"
    """Rows of prompt, chosen and rejected."""
    reward_epochs: Count = 5
    """Passes over the pairs at most; training stops when the held-out loss no longer falls."""
    reward_lr: Rate = 5e-5
    """Peak rate of the reward model; its head, which is new, takes at least 1e-3."""
    reward_batch_size: Count = 32
    """Pairs an optimizer step."""
    freeze_reward_backbone: bool = False
    """Train the head of the reward model alone."""
    ppo_data_path: str = "data/ppo_prompts.jsonl"
    """Prompts."""
    ppo_iterations: Count = 1000
    """Rounds of rollout and update."""
    ppo_lr_policy: Rate = 1e-5
    """Rate of the policy, constant."""
    ppo_lr_value: Rate = 5e-5
    """Rate of the critic, a model of its own that starts from the SFT weights, constant."""
    ppo_batch_size: Count = 32
    """Rollouts per round."""
    ppo_mini_batch_size: Count = 8
    """Rollouts an optimizer step; one that does not divide ppo_batch_size becomes the nearest that does."""
    ppo_epochs: Count = 4
    """Passes over the rollouts of a round."""
    max_length: Annotated[int, Field(ge=10)] = 512
    """Longest sequence, tokens: longer rows are left out and counted, and rollouts end here."""
    save_dir: str = "rlhf_outputs"
    """Where everything is written."""
    save_interval: Count = 100
    """Rounds of PPO between iteration_NNNNNN.pt files."""
    log_level: Level = "INFO"
    """What is logged, to stderr and to logs/pipeline.log."""
    seed: Annotated[int, Field(ge=0)] = 0
    """The same settings, data and seed give the same models on the same machine."""
    reward_objective: str = "bradley_terry"
    """Loss of the reward model: bradley_terry, or a name given to register_reward_objective."""
    optimizer: str = "adamw"
    """Optimizer of every stage: adamw, or a name given to register_optimizer."""
    preference_epochs: Count = 1
    """Passes of DPO and KTO over the pairs of reward_data_path."""
    preference_lr: Rate = 5e-6
    """Peak rate of DPO and KTO."""
    preference_batch_size: Count = 16
    """Pairs of DPO per optimizer step; for KTO single replies."""
    preference_beta: Rate = 0.1
    """How much DPO and KTO pay for distance from the SFT policy: the factor of the log-ratios."""

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        return asdict(self)


def get_default_config() -> RLHFConfig:
    """The default settings."""
    return RLHFConfig()


def read_settings(given: RLHFConfig | Mapping[str, Any] | str | Path) -> RLHFConfig:
    """Settings from an object, a mapping, or a JSON or YAML file; raises ConfigError for what is unknown or wrong."""
    if isinstance(given, RLHFConfig):
        return given
    source = "config"
    if isinstance(given, str | Path):
        source, given = str(given), read_settings_file(Path(given))
    if not isinstance(given, Mapping):
        raise ConfigError(f"config: got {type(given).__name__}; allowed are an RLHFConfig, a mapping, or a file's path")
    config, wrong = RLHFConfig(), []
    for name, value in given.items():
        try:
            setattr(config, str(name), value)
        except ConfigError as error:
            wrong.append(f"{source}: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return config
