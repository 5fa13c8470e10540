"""The flat settings of the pipeline API, checked when they are made and whenever one is assigned."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from thumbs.compat import suggestion
from thumbs.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]

_PATTERN = "allowed are auto, cpu, mps, cuda and cuda:N"


@dataclass
class RLHFConfig:
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
    max_length: Annotated[int, Field(ge=8)] = 512
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

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _types():
            raise ConfigError(f"{type(self).__name__}: {_unknown(name)}")
        super().__setattr__(name, _checked(name, value))

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
    if isinstance(given, Mapping):
        return _from_mapping(given, "config")
    if not isinstance(given, str | Path):
        raise ConfigError(f"config: got {type(given).__name__}; allowed are an RLHFConfig, a mapping, or a file's path")
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8-sig")
        raw = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as JSON or YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected settings as `name: value`, got {type(raw).__name__}")
    return _from_mapping(raw, str(path))


def _from_mapping(raw: Mapping[str, Any], source: str) -> RLHFConfig:
    wrong = [_unknown(str(key)) for key in raw if key not in _types()]
    for key, value in raw.items():
        if key in _types():
            try:
                _checked(key, value)
            except ConfigError as error:
                wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(f"{source}: {line}" for line in wrong))
    return RLHFConfig(**raw)


@cache
def _types() -> dict[str, Any]:
    hints = get_type_hints(RLHFConfig, include_extras=True)
    return {field.name: hints[field.name] for field in fields(RLHFConfig)}


def _unknown(name: str) -> str:
    return f"unknown setting {name!r}; {suggestion(name, _types())}"


def _checked(name: str, value: Any) -> Any:
    """The value in the type of its setting; a path may be a Path, and a number may be text, as YAML leaves `1e-5`."""
    kind = _types()[name]
    if isinstance(value, Path):
        value = str(value)
    if name == "log_level":
        value = logging.getLevelName(value) if isinstance(value, int) else str(value).upper()
    try:
        if isinstance(value, bool) and kind is not bool:
            raise ConfigError(f"{name}: got {value!r}; truth values are not allowed here")
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        found = error.errors()[0]
        allowed = _PATTERN if found["type"] == "string_pattern_mismatch" else found["msg"].replace("Input", "it", 1)
        raise ConfigError(f"{name}: got {value!r}; {allowed}") from None
