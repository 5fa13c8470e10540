"""What can be sampled from: requests go in, replies come out, wherever and whenever they are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from thumbs.errors import ConfigError, DataError
from thumbs.records import Sample

DecodeText: TypeAlias = Callable[[list[int]], str]
"""Text of tokens."""

Top: TypeAlias = list[tuple[int, float]]
"""Likeliest tokens with their logprobs, descending."""

OnToken: TypeAlias = Callable[[int, int, float, Top], None]
"""Is called for each token as it is drawn: the sample's number, the token, its logprob, the likeliest in its place."""


@dataclass(frozen=True)
class DecodingParams:
    """How to draw: in tokens, so that samplers know nothing of text.

    stop_tokens end a reply and are kept in it. Each sample has its own seed, so a reply does not depend on what else is
    in the batch. `stop_strings` need a sampler that decodes; the token that completes one is kept whole,
    so a reply's tokens may say more than its text does.
    """

    max_new_tokens: int
    stop_tokens: tuple[int, ...]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class PromptQuery:
    """What to say of each of the N - 1 tokens after a prompt's first: its logprob, the `top` likeliest tokens in its
    place, the logprobs of the ids `targets` [N - 1, K] (-1: no id), `draws` tokens drawn at the samples' temperature.
    """

    logprobs: bool = False
    top: int = 0
    targets: np.ndarray | None = None
    draws: int = 0

    @property
    def asks(self) -> bool:
        """Whether there is anything to say."""
        return bool(self.logprobs or self.top or self.draws) or self.targets is not None


@dataclass(frozen=True, eq=False)
class PromptAnswer:
    """Logprobs in nats at temperature 1, 0 for an id of -1. drawn: tokens and their logprobs, each [N - 1, draws]."""

    logprobs: np.ndarray | None = None
    top: Sequence[Top] = ()
    targets: np.ndarray | None = None
    drawn: Sequence[np.ndarray] = ()


@dataclass(frozen=True, eq=False)
class SampleRequest:
    """One sample of a prompt per seed. top: how many likeliest tokens to report in the place of each sampled one."""

    prompt: Sequence[int]
    params: DecodingParams
    seeds: Sequence[int]
    top: int = 0
    about_prompt: PromptQuery | None = None
    on_token: OnToken | None = None


@dataclass(frozen=True, eq=False)
class SampleReply:
    """The samples in the order of the seeds, the likeliest tokens of each, and what was asked about the prompt."""

    samples: Sequence[Sample]
    top: Sequence[Sequence[Top]]
    prompt: PromptAnswer | None = None


class Sampler(Protocol):
    """A frozen set of weights to draw from, stamped with the optimizer steps that they took; replies carry the stamp.

    A sampler of a stage comes only from `engine.snapshot`. reads_prompts: whether it answers a `PromptQuery`.
    """

    policy_version: int
    reads_prompts: bool = True

    def submit(self, requests: Sequence[SampleRequest]) -> list[Future[SampleReply]]:
        """A future reply per request, which may be cancelled; raises ThumbsError for a request that cannot be."""
        ...

    def sample(self, prompts: Sequence[Sequence[int]], params: DecodingParams, seeds: Sequence[int]) -> list[Sample]:
        """Waits for one sample per prompt, in order; seeds[i] fixes the draw of prompts[i]."""
        own = equal_prompts(prompts)
        futures = self.submit([SampleRequest(prompts[at[0]], params, [seeds[i] for i in at]) for at in own])
        drawn: dict[int, Sample] = {}
        for at, future in zip(own, futures, strict=True):
            drawn |= zip(at, future.result().samples, strict=True)
        return [drawn[place] for place in range(len(prompts))]


def equal_prompts(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of equal prompts, which are one request and are read once; those that begin alike stand side by side."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        places.setdefault(tuple(prompt), []).append(place)
    return [places[prompt] for prompt in sorted(places)]


def check_requests(requests: Sequence[SampleRequest], context: int, *, decodes: bool) -> None:
    """Raises what is the caller's error, before anything is computed. decodes: whether stop strings can be seen."""
    for request in requests:
        if not len(request.prompt):
            raise DataError("an empty prompt cannot be continued; start it with the tokenizer's first token at least")
        if request.params.stop_strings and not decodes:
            raise ConfigError("stop strings need a sampler that can decode text; give stop tokens instead")
        new = request.params.max_new_tokens
        # The model never reads a reply's last token: a prompt that fills the context may have one token after it,
        # which is how clients ask for the prompt's logprobs.
        if len(request.prompt) + (new if new > 1 else 0) > context:
            raise ConfigError(
                f"prompt and reply together reach {len(request.prompt) + new} tokens; the model's context is "
                f"{context}. Shorten the prompts or lower max_new_tokens"
            )
