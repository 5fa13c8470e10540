"""Alarms while a policy games its reward, and what is said about the safety of texts."""

__all__ = [
    "filters", "gate", "guard", "guard_model", "guards", "looks", "probes", "refusals", "second_opinion",
    "text_rules", "unsafe",
]  # fmt: skip
