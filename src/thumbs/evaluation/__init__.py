"""Gold, replies that are kept, comparisons on the same prompts with intervals, audits of reward models."""

__all__ = [
    "benchmarks", "heldout", "intervals", "judges", "replies", "results", "reward_audit", "reward_probes",
    "statistics", "text",
]  # fmt: skip
