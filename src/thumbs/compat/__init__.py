"""APIs that people know from elsewhere, on our engine: TRL's step API (`trl_ppo`) and a pipeline of one flat config."""

__all__ = ["rlhf_pipeline", "trl_ppo"]
