"""TRL's step API of versions 0.4 to 0.11 on our engine: `import thumbs.compat.trl_ppo as trl`.

What is the same, what differs and why: docs/guides/trl_ppo.md.
"""

from __future__ import annotations

from typing import Any

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.core import AdaptiveKLController, FixedKLController, LengthSampler, set_seed
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead, create_reference_model
from thumbs.compat.trl_ppo.reward import AutoModelForSequenceClassification, RewardConfig, RewardTrainer
from thumbs.compat.trl_ppo.trainer import PPOTrainer

__all__ = [
    "AdaptiveKLController",
    "AutoModelForCausalLMWithValueHead",
    "AutoModelForSequenceClassification",
    "FixedKLController",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "RewardConfig",
    "RewardTrainer",
    "create_reference_model",
    "set_seed",
]

ELSEWHERE = {
    "SFTTrainer": "`thumbs sft`",
    "SFTConfig": "the `sft` section of a YAML file",
    "DPOTrainer": "`thumbs direct`",
    "DPOConfig": "the `direct` section of a YAML file",
    "KTOTrainer": "`thumbs direct`",
    "ORPOTrainer": "`thumbs direct`",
    "CPOTrainer": "`thumbs direct`",
    "OnlineDPOTrainer": "`thumbs direct`",
    "KTOConfig": "the `direct` section of a YAML file",
    "GRPOTrainer": "`thumbs group`",
    "GRPOConfig": "the `group` section of a YAML file",
    "BestOfNSampler": "`thumbs rejection`",
    "PPOv2Trainer": "`PPOTrainer`, or `thumbs ppo`",
    "PPOv2Config": "`PPOConfig`",
    "RLOOTrainer": "`thumbs group`",
    "AutoModelForSeq2SeqLMWithValueHead": "a causal language model, the only kind that is trained here",
}


def __getattr__(name: str) -> Any:
    if name in ELSEWHERE:
        raise ImportError(f"{__name__} has no {name}; take {ELSEWHERE[name]} (docs/guides/trl_ppo.md)")
    raise AttributeError(
        f"module {__name__!r} has no attribute {name!r}; there are {', '.join(__all__)} (docs/guides/trl_ppo.md)"
    )
