"""Alarms while a policy games its reward, and what is said about the safety of texts."""

__all__ = ["filters", "guard", "guard_model", "guards", "looks", "second_opinion", "text_rules", "unsafe"]
