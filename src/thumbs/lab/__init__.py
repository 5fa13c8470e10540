"""Experiments in which the truth is known: over-optimisation of a reward model, and what brakes it."""

__all__ = ["overopt", "world"]
