"""Alarms while a policy games its reward, and what is said about the safety of texts."""

__all__ = ["guards", "second_opinion", "unsafe"]
