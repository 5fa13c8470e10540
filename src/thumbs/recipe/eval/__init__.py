"""Evaluation inside recipes."""
