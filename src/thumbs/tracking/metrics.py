"""Metric names with units and one-line meanings, and the log they go to."""
