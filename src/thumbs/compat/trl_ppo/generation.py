"""The keywords of `generate` that people write → our sampler."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thumbs.compat import suggestion
from thumbs.errors import ConfigError
from thumbs.rollout.sampler import DecodingParams, Sampler

DEFAULT_NEW_TOKENS = 20
"""Without max_new_tokens and max_length, as transformers."""

TAKEN = (
    "do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "max_length", "min_length", "min_new_tokens",
    "eos_token_id", "pad_token_id",
)  # fmt: skip
WITHOUT_EFFECT = ("bos_token_id", "use_cache", "pad_to_multiple_of", "synced_gpus")
NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "length_penalty": 1.0,
}
"""What changes the distribution that is sampled from, and the value with which it does not."""


@dataclass(frozen=True)
class Generation:
    """Checked keywords. temperature 0: the likeliest token; stop_tokens None: those of the model or tokenizer."""

    temperature: float
    top_k: int
    top_p: float
    max_new_tokens: int | None
    max_length: int | None
    stop_tokens: tuple[int, ...] | None
    pad_token: int | None

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
        stops = stop_tokens if self.stop_tokens is None else self.stop_tokens
        return DecodingParams(room, stops, self.temperature, self.top_k, self.top_p)


def read_keywords(keywords: Mapping[str, Any]) -> Generation:
    """Raises ConfigError for keywords that are unknown or would change what a logprob means."""
    known = (*TAKEN, *WITHOUT_EFFECT, *NEUTRAL)
    for name, value in keywords.items():
        if name not in known:
            raise ConfigError(f"generate() knows no keyword {name!r}; {suggestion(name, known, TAKEN)}")
        if name in NEUTRAL and value not in (None, NEUTRAL[name]):
            raise ConfigError(
                f"generate({name}={value}): replies must come from the policy's own distribution, or ratio and KL mean "
                f"nothing; leave {name} at {NEUTRAL[name]}"
            )
    for name in ("min_length", "min_new_tokens"):
        if (keywords.get(name) or 0) > 1:
            raise ConfigError(
                f"generate({name}={keywords[name]}) forbids the end token, which falsifies its logprob; to get replies "
                "of a fixed length give eos_token_id=-1, or take points off short replies in your reward"
            )
    sampled = bool(keywords.get("do_sample", False))
    top_k, top_p = int(keywords.get("top_k") or 0), keywords.get("top_p")
    generation = Generation(
        temperature=_temperature(keywords) if sampled else 0.0,
        top_k=max(top_k, 0),
        top_p=1.0 if top_p is None else float(top_p),
        max_new_tokens=_whole(keywords, "max_new_tokens"),
        max_length=_whole(keywords, "max_length"),
        stop_tokens=_stop_tokens(keywords.get("eos_token_id")),
        pad_token=keywords.get("pad_token_id"),
    )
    if sampled and (generation.top_k or generation.top_p < 1):
        warnings.warn(
            f"generate(top_k={top_k}, top_p={top_p}) cuts the distribution; `step` knows nothing of the cut, so ratio "
            "and KL are off. For replies to learn from give top_k=0, top_p=1.0",
            stacklevel=3,
        )
    return generation


def draw_replies(sampler: Sampler, prompts: Sequence[Sequence[int]], params: DecodingParams) -> list[list[int]]:
    """The sampled tokens of each prompt, the end token kept; draws its seeds from torch's global generator."""
    seeds = torch.randint(2**62, (len(prompts),)).tolist()
    return [sample.tokens.tolist() for sample in sampler.sample(prompts, params, seeds)]


def _temperature(keywords: Mapping[str, Any]) -> float:
    temperature = float(keywords.get("temperature", 1.0) or 0.0)
    if temperature <= 0:
        raise ConfigError(f"generate(temperature={temperature}); give one above 0, or do_sample=False")
    return temperature


def _whole(keywords: Mapping[str, Any], name: str) -> int | None:
    value = keywords.get(name)
    if value is None:
        return None
    if int(value) != value or (name == "max_new_tokens" and value < 1):
        raise ConfigError(f"generate({name}={value}); it must be a whole number of at least 1")
    return int(value)


def _stop_tokens(given: int | Iterable[int] | None) -> tuple[int, ...] | None:
    """-1, and any number outside the vocabulary, is a token that never comes."""
    if given is None:
        return None
    return (int(given),) if isinstance(given, int) else tuple(int(token) for token in given)
