"""Gold judges, comparisons at equal length and KL, intervals, audits of reward models."""

__all__ = ["heldout", "intervals", "judges", "reward_audit", "reward_probes", "text"]
