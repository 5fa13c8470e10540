"""RLHF from one flat config: SFT → reward model → PPO, as older programs call it (docs/guides/rlhf_pipeline.md)."""

from thumbs.compat.rlhf_pipeline.pipeline import RLHFPipeline, create_rlhf_pipeline
from thumbs.compat.rlhf_pipeline.settings import RLHFConfig, get_default_config
from thumbs.engine.objectives import register_reward_objective
from thumbs.engine.optimizers import register_optimizer

__all__ = [
    "RLHFConfig",
    "RLHFPipeline",
    "create_rlhf_pipeline",
    "get_default_config",
    "register_optimizer",
    "register_reward_objective",
]
