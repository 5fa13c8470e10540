"""Settings: frozen, closed, with the meaning and unit of each."""

__all__ = [
    "base", "data", "direct", "direct_methods", "engine", "environment", "evaluation", "former_names", "group",
    "group_methods", "labels", "losses", "method_page", "methods", "minibatches", "model", "named", "optim",
    "pipeline", "ppo", "reference", "rejection", "reward_model", "reward_parts", "sampling", "sft",
]  # fmt: skip
