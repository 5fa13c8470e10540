"""From prompts to sampled replies with logprobs."""

__all__ = [
    "batch", "draw", "episodes", "native", "pending", "prompt_reading", "publish", "rounds", "runner", "sampler",
    "scheduler",
]  # fmt: skip
