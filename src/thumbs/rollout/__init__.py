"""From prompts to sampled replies with logprobs."""

__all__ = ["draw", "episodes", "native", "pool", "prompt_reading", "rounds", "sampler"]
