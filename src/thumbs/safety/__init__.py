"""Alarms while a policy games its reward."""

__all__ = ["guards", "second_opinion"]
