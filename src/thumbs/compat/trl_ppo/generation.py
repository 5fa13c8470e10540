"""The keywords of `generate` that people write → our sampler."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thumbs.compat.settings import CheckedSettings, Count
from thumbs.errors import ConfigError
from thumbs.rollout.sampler import DecodingParams, Sampler

DEFAULT_NEW_TOKENS = 20
"""Without max_new_tokens and max_length, as transformers."""

NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "length_penalty": 1.0,
}
"""What changes the distribution that is sampled from, and the value with which it does not."""


@dataclass(init=False)
class Generation(CheckedSettings):
    """Keywords of transformers' `generate`. eos_token_id: -1, and any number outside the vocabulary, is a token that
    never comes.
    """

    without_effect = dict.fromkeys(("bos_token_id", "use_cache", "pad_to_multiple_of", "synced_gpus", *NEUTRAL))

    do_sample: bool = False
    temperature: float = 1.0
    top_k: float = 0
    top_p: float = 1.0
    max_new_tokens: Count | None = None
    max_length: int | None = None
    min_length: int = 0
    min_new_tokens: int = 0
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_length", "min_new_tokens"):
            if getattr(self, name) > 1:
                raise ConfigError(
                    f"generate({name}={getattr(self, name)}) forbids the end token, which falsifies its logprob; to "
                    "get replies of a fixed length give eos_token_id=-1, or take points off short replies in your "
                    "reward"
                )
        if self.do_sample and self.temperature <= 0:
            raise ConfigError(f"generate(temperature={self.temperature}); give one above 0, or do_sample=False")

    def params(self, prompt_length: int, stop_tokens: tuple[int, ...]) -> DecodingParams:
        """For prompts of at most that many tokens; `stop_tokens` where the caller gave none."""
        room = self.max_new_tokens
        if room is None:
            room = DEFAULT_NEW_TOKENS if self.max_length is None else self.max_length - prompt_length
        if room < 1:
            raise ConfigError(
                f"max_length={self.max_length} leaves no room after a query of {prompt_length} tokens; "
                "give max_new_tokens"
            )
        if self.eos_token_id is not None:
            stop_tokens = (self.eos_token_id,) if isinstance(self.eos_token_id, int) else tuple(self.eos_token_id)
        temperature = self.temperature or 1.0 if self.do_sample else 0.0
        return DecodingParams(
            room, stop_tokens, temperature, max(int(self.top_k or 0), 0), 1.0 if self.top_p is None else self.top_p
        )


def read_keywords(keywords: Mapping[str, Any]) -> Generation:
    """Raises ConfigError for keywords that are unknown or would change what a logprob means."""
    for name, neutral in NEUTRAL.items():
        if keywords.get(name) not in (None, neutral):
            raise ConfigError(
                f"generate({name}={keywords[name]}): replies must come from the policy's own distribution, or ratio "
                f"and KL mean nothing; leave {name} at {neutral}"
            )
    generation = Generation(**keywords)
    if generation.do_sample and (generation.top_k > 0 or generation.top_p < 1):
        warnings.warn(
            f"generate(top_k={generation.top_k}, top_p={generation.top_p}) cuts the distribution; `step` knows nothing "
            "of the cut, so ratio and KL are off. For replies to learn from give top_k=0, top_p=1.0",
            stacklevel=3,
        )
    return generation


def draw_replies(sampler: Sampler, prompts: Sequence[Sequence[int]], params: DecodingParams) -> list[list[int]]:
    """The sampled tokens of each prompt, the end token kept; draws its seeds from torch's global generator."""
    seeds = torch.randint(2**62, (len(prompts),)).tolist()
    return [sample.tokens.tolist() for sample in sampler.sample(prompts, params, seeds)]
