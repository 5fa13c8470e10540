"""One file per method, to be read next to its paper."""

__all__ = [
    "answers", "constraint", "context", "cost_model", "direct", "direct_batch", "direct_watch", "filtering",
    "group", "group_report", "group_supply", "kto", "labels", "loop", "milestones", "online_dpo", "people", "ppo",
    "ppo_report", "ppo_run", "rejection", "reward_heldout", "reward_items", "reward_model", "rollout_queue",
    "rollouts", "sequences", "sft", "watch",
]  # fmt: skip
