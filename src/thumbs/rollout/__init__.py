"""From prompts to sampled replies with logprobs."""

__all__ = [
    "batch",
    "draw",
    "episodes",
    "native",
    "native_worker",
    "orders",
    "pending",
    "prompt_reading",
    "publish",
    "remote",
    "rounds",
    "runner",
    "sampler",
    "scheduler",
    "vllm",
    "vllm_extension",
    "vllm_worker",
]
