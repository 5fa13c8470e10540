"""RLHF from one flat config: SFT → reward model → PPO, as older programs call it (docs/guides/rlhf_pipeline.md)."""

from thumbs.compat.rlhf_pipeline.parts import (
    ConversationDataset,
    DPOTrainer,
    KTOTrainer,
    PPOTrainer,
    RewardTrainer,
    SFTTrainer,
    create_model,
    create_preference_dataloader,
    create_preference_loss,
    create_reward_model,
    create_trainer,
    create_value_model,
)
from thumbs.compat.rlhf_pipeline.pipeline import RLHFPipeline, create_rlhf_pipeline
from thumbs.compat.rlhf_pipeline.settings import RLHFConfig, get_default_config
from thumbs.engine.objectives import register_reward_objective
from thumbs.engine.optimizers import register_optimizer

__all__ = [
    "ConversationDataset",
    "DPOTrainer",
    "KTOTrainer",
    "PPOTrainer",
    "RLHFConfig",
    "RLHFPipeline",
    "RewardTrainer",
    "SFTTrainer",
    "create_model",
    "create_preference_dataloader",
    "create_preference_loss",
    "create_reward_model",
    "create_rlhf_pipeline",
    "create_trainer",
    "create_value_model",
    "get_default_config",
    "register_optimizer",
    "register_reward_objective",
]
