"""Settings: frozen, closed, with the meaning and unit of each."""

__all__ = [
    "base", "constraint", "cost_model", "data", "direct", "direct_methods", "engine", "environment", "evaluation",
    "families", "former_names", "group", "group_methods", "labels", "losses", "methods", "model", "named", "optim",
    "pipeline", "ppo", "rejection", "reward_model", "reward_parts", "rounds", "safety", "sampling", "schema",
    "serving", "sft", "tracking", "watch",
]  # fmt: skip
