"""Reinforcement learning."""

from thumbs.recipe.rl import data_processing, message_env, metrics, preference_envs, problem_env, rollouts, train, types

__all__ = ["data_processing", "message_env", "metrics", "preference_envs", "problem_env", "rollouts", "train", "types"]
