"""From prompts to sampled replies with logprobs."""

__all__ = [
    "batch",
    "draw",
    "episodes",
    "native",
    "prompt_reading",
    "publish",
    "rounds",
    "runner",
    "sampler",
    "scheduler",
]
