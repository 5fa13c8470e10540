"""TRL's step API of versions 0.4 to 0.11 on our engine: `import thumbs.compat.trl_ppo as trl`.

What is the same, what differs and why: docs/guides/trl_ppo.md.
"""

from __future__ import annotations

from typing import Any

from thumbs.compat.trl_ppo.config import PPOConfig
from thumbs.compat.trl_ppo.core import AdaptiveKLController, FixedKLController, LengthSampler, set_seed
from thumbs.compat.trl_ppo.model import AutoModelForCausalLMWithValueHead, create_reference_model
from thumbs.compat.trl_ppo.trainer import PPOTrainer

__all__ = [
    "AdaptiveKLController",
    "AutoModelForCausalLMWithValueHead",
    "FixedKLController",
    "LengthSampler",
    "PPOConfig",
    "PPOTrainer",
    "create_reference_model",
    "set_seed",
]

ELSEWHERE = {
    "SFTTrainer": "`thumbs sft`",
    "RewardTrainer": "`thumbs reward`",
    "DPOTrainer": "`thumbs preference`",
    "KTOTrainer": "`thumbs preference`",
    "ORPOTrainer": "`thumbs preference`",
    "GRPOTrainer": "`thumbs group`",
    "RLOOTrainer": "`thumbs group`",
    "AutoModelForSeq2SeqLMWithValueHead": "a causal language model, the only kind that is trained here",
}


def __getattr__(name: str) -> Any:
    if name in ELSEWHERE:
        raise ImportError(f"{__name__} has no {name}; take {ELSEWHERE[name]} (docs/guides/trl_ppo.md)")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
