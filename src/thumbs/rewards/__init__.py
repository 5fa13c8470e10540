"""What scores rollouts: models, functions, verifiers, judges, and mixes of them."""

__all__ = [
    "base", "build", "classifier", "cost", "endpoint", "ensemble", "judge", "mix", "model", "returned", "shaping",
    "signatures", "steps", "trained", "verifiers",
]  # fmt: skip
