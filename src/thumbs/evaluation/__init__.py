"""Gold, replies that are kept, comparisons on the same prompts with intervals, audits of reward models and judges."""

__all__ = [
    "benchmarks", "gold", "heldout", "intervals", "judge_audit", "judges", "replies", "results", "reward_audit",
    "reward_probes", "statistics", "text",
]  # fmt: skip
