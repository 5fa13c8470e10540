"""Conversations of several turns, and tools."""

__all__ = ["base", "limits", "tools"]
