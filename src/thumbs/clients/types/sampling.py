"""What a sampling call takes and answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import model_validator

from thumbs.clients.types.base import Owner, Response
from thumbs.clients.types.tensors import TensorData
from thumbs.records import StopReason

log = logging.getLogger(__name__)

UNUSED_LOGPROB = -99999.0
"""Logprob of a cell of `TopkLogprobs` that holds no token; its token id is 0."""

TokenLogprobs = list[tuple[int, float]]


class SamplingParams(Response):
    """How to sample. `stop` None: the model's own end tokens; []: none at all; else texts and token ids.

    Unknown fields are dropped, as the hosted clients do: scripts pass some that mean nothing there. The log names them.
    """

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str | int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    @model_validator(mode="before")
    @classmethod
    def _name_unread(cls, given: Any) -> Any:
        if isinstance(given, dict) and (unread := sorted(map(str, given.keys() - cls.model_fields.keys()))):
            log.warning("SamplingParams makes no use of %s", ", ".join(unread))
        return given


@dataclass(frozen=True, eq=False)
class TopkLogprobs(Owner):
    """The likeliest tokens at each position: token_ids int32 and logprobs float32 (nats), both [N, k]."""

    token_ids: np.ndarray
    logprobs: np.ndarray

    def to_lists(self) -> list[TokenLogprobs | None]:
        """(token id, logprob) pairs of each position without unused cells; None if all are unused."""
        rows = zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True)
        pairs = [[pair for pair in zip(*row, strict=True) if pair[1] != UNUSED_LOGPROB] for row in rows]
        return [row or None for row in pairs]


@dataclass(frozen=True, eq=False)
class SampledSequence(Owner):
    """One sampled sequence, the stop token included.

    policy_version: optimizer steps that the sampler's weights took; clients of this process alone are told.
    tokens_np int32 [N]; logprobs_np float32 [N] (nats, at the sampling temperature). The properties without `_np` are
    the same as Python lists.
    """

    stop_reason: StopReason
    sequence_id: str = ""
    tokens_np: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32), repr=False)
    logprobs_np: np.ndarray | None = field(default=None, repr=False)
    topk_logprobs_np: TopkLogprobs | None = field(default=None, repr=False)
    policy_version: int = 0

    @cached_property
    def tokens(self) -> list[int]:
        """Sampled token ids."""
        return self.tokens_np.tolist()

    @cached_property
    def logprobs(self) -> list[float] | None:
        """One logprob per token."""
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @cached_property
    def topk_logprobs(self) -> list[TokenLogprobs | None] | None:
        """The likeliest tokens at each sampled position."""
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.to_lists()


@dataclass(frozen=True, eq=False)
class PromptAltTokens(Owner):
    """k draws from the model at every prompt position after the first: tokens int64, logprobs float32, [N - 1, k]."""

    tokens: TensorData
    logprobs: TensorData


@dataclass(frozen=True, eq=False)
class SampleResponse(Owner):
    """Sampled sequences and, where asked for, logprobs of the prompt of N tokens (nats, at temperature 1).

    prompt_logprobs_np float32 [N], NaN if none was computed, as at the first token; topk_prompt_logprobs_np [N, k];
    target_prompt_logprobs float32 [N - 1, k] in the layout of the request. The properties without `_np` are lists.
    """

    sequences: Sequence[SampledSequence]
    prompt_logprobs_np: np.ndarray | None = field(default=None, repr=False)
    topk_prompt_logprobs_np: TopkLogprobs | None = field(default=None, repr=False)
    target_prompt_logprobs: TensorData | None = None
    prompt_cache_hit_tokens: int = 0
    prompt_alt_tokens: PromptAltTokens | None = None

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """One logprob per prompt token, None if none was computed."""
        if self.prompt_logprobs_np is None:
            return None
        return [None if np.isnan(logprob) else logprob for logprob in self.prompt_logprobs_np.tolist()]

    @cached_property
    def topk_prompt_logprobs(self) -> list[TokenLogprobs | None] | None:
        """The likeliest tokens at each prompt position, None if none was computed."""
        return None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.to_lists()
