"""Experiments in which the truth is known: over-optimisation of a reward model, what brakes it, and a limit on cost."""

__all__ = ["constraint", "figures", "overopt", "verdicts", "world"]
