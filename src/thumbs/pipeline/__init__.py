"""The stages in order: run, resume, plan, trace, export."""

__all__ = [
    "artifacts", "chat", "checks", "cluster_plan", "doctor", "evaluate", "exports", "former_runs", "gate", "identity",
    "inputs", "labels", "model_card", "names", "overlap", "people_gold", "pitfalls", "plan", "probe", "reads",
    "rehearsal", "reply_source", "reward_audit", "run", "safety", "savings", "stages", "standing", "summary",
    "takeover", "trace", "tracker_kinds", "trackers", "workload",
]  # fmt: skip
