"""Sampling from weights that stay as they are."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any

from thumbs.clients import types
from thumbs.clients.backend import Backend
from thumbs.clients.futures import APIFuture, Ready, after
from thumbs.clients.sample_call import SampleCall


class SamplingClient(Ready):
    """A sampler. `made`: of one whose weights are still to be taken, when a training client's turn comes."""

    def __init__(self, backend: Backend, sampler_id: str, base_model: str, made: Future[Any] | None = None) -> None:
        self._backend, self.sampler_id, self.base_model, self._made = backend, sampler_id, base_model, made

    def sample(
        self,
        prompt: types.ModelInput,
        num_samples: int = 1,
        sampling_params: types.SamplingParams | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: types.TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[types.SampleResponse]:
        """`num_samples` continuations of the prompt, with the logprob of each token at the sampling temperature.

        Of the prompt of N tokens, at temperature 1: logprobs, likeliest tokens, logprobs of chosen ids [N - 1, K] (-1
        for none), and of tokens drawn in the place of its own at the sampling temperature.
        """
        call = SampleCall(
            prompt,
            num_samples,
            sampling_params or types.SamplingParams(),
            include_prompt_logprobs,
            topk_prompt_logprobs,
            topk_sample_logprobs,
            target_prompt_logprobs,
            prompt_alt_tokens_k,
            prompt_logprobs_last_n,
        )
        begin = partial(self._backend.samplers.sample, self.sampler_id, call)
        return APIFuture(begin() if self._made is None else after(self._made, begin))

    def compute_logprobs(
        self, prompt: types.ModelInput, prompt_logprobs_last_n: int | None = None
    ) -> APIFuture[list[float | None]]:
        """The logprob of each token of the prompt after those before it, at temperature 1; None for the first."""
        asked = self.sample(
            prompt,
            1,
            types.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        )
        return APIFuture(asked.future(), lambda response: response.prompt_logprobs)

    def get_tokenizer(self) -> Any:
        """The tokenizer of the base model, as transformers loads it."""
        return self._backend.bases[self.base_model].transformers_tokenizer()

    def get_base_model(self) -> str:
        """The name of the base model."""
        return self.base_model

    async def get_base_model_async(self) -> str:
        """Does the same as `get_base_model`, without blocking."""
        return self.base_model

    sample_async = sample
    compute_logprobs_async = compute_logprobs
