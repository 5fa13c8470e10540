"""Samplers that are vLLM engines, each behind a worker whose environment has vLLM. Here is the driver's half."""

from __future__ import annotations

from thumbs.config.engine import RolloutConfig
from thumbs.errors import ConfigError
from thumbs.rollout.publish import OpenSampler
from thumbs.rollout.remote import RemoteSamplers, worker_specs
from thumbs.rollout.sampler import SampleRequest
from thumbs.rollout.vllm_worker import VllmSettings
from thumbs.workers.base import Crew

LEAST_TEMPERATURE = 0.01
"""Below it vLLM draws at this temperature, whatever was asked for."""


def vllm_samplers(config: RolloutConfig, crew: Crew | None = None) -> OpenSampler:
    """Samplers in vLLM engines, each of which serves one base model."""
    settings = VllmSettings(
        versions=config.adapters or config.staleness + 1,
        tensor_parallel=config.tensor_parallel,
        context=config.context,
        cache_gib=config.cache_gib,
    )
    specs = worker_specs(config, "thumbs.rollout.vllm_worker:VllmWorker", settings)
    return RemoteSamplers(specs, crew, check, reads_prompts=False)


def check(request: SampleRequest, context: int) -> None:
    """Raises ConfigError for what vLLM would draw from another distribution than the model's, or not say as meant.

    vLLM gives logprobs after top-k and top-p, ours are those before. It cannot score prompts with adapters.
    """
    params = request.params
    if params.top_k or params.top_p < 1:
        raise ConfigError(
            f"got top_k={params.top_k}, top_p={params.top_p}; rollout.kind vllm needs top_k=0 and top_p=1, because "
            "its logprobs would be those of the truncated distribution. Leave them out, or sample with kind native"
        )
    if 0 < params.temperature < LEAST_TEMPERATURE:
        raise ConfigError(
            f"got temperature={params.temperature}; rollout.kind vllm takes 0 and from {LEAST_TEMPERATURE} on"
        )
    if request.about_prompt is not None and request.about_prompt.asks:
        raise ConfigError(
            "rollout.kind vllm says nothing about prompts; take their logprobs from the engine's forward, or sample "
            "with kind native"
        )
    length = len(request.prompt) + params.max_new_tokens
    if length > context:
        raise ConfigError(
            f"prompt and reply together reach {length} tokens; the sampler's context is {context}. Shorten the prompts "
            "or lower max_new_tokens"
        )
