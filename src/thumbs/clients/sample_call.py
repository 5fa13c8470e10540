"""What a client asks of a sampler, as a request to the decoding loop, and the reply as the client reads it."""

from __future__ import annotations

import math
import reprlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from thumbs.clients import types
from thumbs.clients.translate import check_ids, prompt_tokens
from thumbs.clients.types.sampling import UNUSED_LOGPROB
from thumbs.errors import DataError
from thumbs.rollout.sampler import DecodingParams, OnToken, PromptAnswer, PromptQuery, SampleReply, SampleRequest, Top

MOST_PROMPT_CELLS = 2**17
"""Logprobs of chosen or drawn tokens that one request may ask for in its prompt."""
MOST_TOP_CELLS = 2**21
"""Likeliest tokens that one request may ask for, over all places: some 300 MB until they are sent."""
MOST_SAMPLE_TOKENS = 2**23
"""Tokens that the samples of one request may have together: some 500 MB until they are sent."""
MOST_STOPS, MOST_STOP_BYTES = 256, 1024
"""Stops of one request, and UTF-8 bytes of each that is a text: all are looked for after every token."""


@dataclass(frozen=True, eq=False)
class SampleCall:
    """Samples of one prompt, and what to tell about their tokens and the prompt's: see `SamplingClient.sample`."""

    prompt: types.ModelInput
    num_samples: int = 1
    sampling_params: types.SamplingParams = field(default_factory=types.SamplingParams)
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0
    target_prompt_logprobs: types.TensorData | None = None
    prompt_alt_tokens_k: int = 0
    prompt_logprobs_last_n: int | None = None

    def request(
        self, vocab_size: int, context: int, stop_ids: Sequence[int], on_token: OnToken | None = None
    ) -> SampleRequest:
        """The same for a model of this size, whose own end tokens are `stop_ids`; raises DataError if it cannot be."""
        for name in ("topk_sample_logprobs", "topk_prompt_logprobs", "prompt_alt_tokens_k"):
            if (count := getattr(self, name)) < 0:
                raise DataError(f"{name} is {count}; it must be 0 or more")
        tokens = prompt_tokens(self.prompt, vocab_size)
        params = decoding_params(self.sampling_params, len(tokens), context, stop_ids)
        top = min(self.topk_sample_logprobs, vocab_size)
        self._check_samples(params.max_new_tokens, top)
        query = PromptQuery(
            logprobs=self.prompt_logprobs or self.topk_prompt_logprobs > 0,
            top=min(self.topk_prompt_logprobs, vocab_size),
            targets=_targets(self.target_prompt_logprobs, len(tokens), vocab_size),
            draws=self.prompt_alt_tokens_k,
        )
        _check_cost(query.top * len(tokens), MOST_TOP_CELLS, f"topk_prompt_logprobs {query.top}")
        _check_cost(query.draws * len(tokens), MOST_PROMPT_CELLS, "prompt_alt_tokens_k")
        if query.draws and len(tokens) < 2:
            raise DataError("prompt_alt_tokens_k needs a prompt of two tokens or more")
        seed = secrets.randbits(62) if self.sampling_params.seed is None else self.sampling_params.seed % 2**62
        seeds, about = range(seed, seed + self.num_samples), query if query.asks else None
        return SampleRequest(tokens.tolist(), params, seeds, top, about, on_token)

    def response(self, request: SampleRequest, reply: SampleReply) -> types.SampleResponse:
        """What the client gets of the reply to its request."""
        count, about = len(request.prompt), reply.prompt or PromptAnswer()
        query = request.about_prompt or PromptQuery()
        logprobs = top = None
        hidden = 1 if self.prompt_logprobs_last_n is None else max(count - self.prompt_logprobs_last_n, 1)
        if about.logprobs is not None:
            logprobs = np.concatenate([[np.nan], about.logprobs]).astype(np.float32)
            logprobs[:hidden] = np.nan
        if query.top:
            top = _top([[] if i < hidden else row for i, row in enumerate([[], *about.top])], query.top)
        drawn = [types.TensorData.from_numpy(array) for array in about.drawn]
        sequences = [
            types.SampledSequence(
                sample.stop_reason,
                tokens_np=sample.tokens.astype(np.int32),
                logprobs_np=sample.logprobs,
                topk_logprobs_np=_top(rows, request.top) if request.top else None,
                policy_version=sample.policy_version,
            )
            for sample, rows in zip(reply.samples, reply.top, strict=True)
        ]
        return types.SampleResponse(
            sequences,
            prompt_logprobs_np=logprobs,
            topk_prompt_logprobs_np=top,
            target_prompt_logprobs=_as_asked(self.target_prompt_logprobs, about.targets),
            prompt_alt_tokens=types.PromptAltTokens(*drawn) if drawn else None,
        )

    def _check_samples(self, length: int, top: int) -> None:
        """Raises DataError if the samples would hold more in memory than one request may; `length`: as was asked."""
        if self.num_samples < 1:
            raise DataError(f"num_samples is {self.num_samples}; it must be 1 or more")
        tokens, asked = self.num_samples * length, f"num_samples {self.num_samples} of max_tokens {length}"
        _check_cost(tokens, MOST_SAMPLE_TOKENS, asked)
        _check_cost(tokens * top, MOST_TOP_CELLS, f"topk_sample_logprobs {top} for {asked}")


def decoding_params(params: types.SamplingParams, prompt: int, context: int, stop_ids: Sequence[int]) -> DecodingParams:
    """The sampler's settings. A reply ends at the context's end; without `stop` the model's own end tokens end it.

    A prompt that fills the context may have a single token after it, which the model never reads: logprobs of a prompt
    are asked for in that way, and recipes cut their data to the context's length.
    """
    if prompt > context or (prompt == context and params.max_tokens != 1):
        raise DataError(f"the prompt has {prompt} tokens; the model's context of {context} leaves no room for a reply")
    room = max(context - prompt, 1)
    count = room if params.max_tokens is None else min(params.max_tokens, room)
    if count < 1 or not (params.temperature >= 0 and math.isfinite(params.temperature)) or not 0 < params.top_p <= 1:
        raise DataError(
            f"max_tokens {params.max_tokens}, temperature {params.temperature}, top_p {params.top_p}: needed are "
            "max_tokens of 1 or more, a temperature of 0 or more, and top_p above 0 and at most 1"
        )
    stops = list(stop_ids) if params.stop is None else [params.stop] if isinstance(params.stop, str) else params.stop
    texts = tuple(stop for stop in stops if isinstance(stop, str))
    if params.stop is not None:
        _check_stops(len(stops), texts)
    tokens = tuple(stop for stop in stops if isinstance(stop, int))
    return DecodingParams(count, tokens, params.temperature, max(params.top_k, 0), params.top_p, texts)


def _check_stops(count: int, texts: Sequence[str]) -> None:
    if count > MOST_STOPS:
        raise DataError(f"stop has {count} entries; at most {MOST_STOPS} are looked for")
    for text in texts:
        if not text:
            raise DataError("stop has an empty string, which would end every reply at once; leave it out")
        if len(text.encode("utf-8", "replace")) > MOST_STOP_BYTES:
            raise DataError(f"stop holds a text longer than {MOST_STOP_BYTES} bytes, {reprlib.repr(text)}")


def _check_cost(cells: int, most: int, asked: str) -> None:
    if cells > most:
        raise DataError(f"{asked} asks for {cells} numbers; at most {most} are given at a time")


def _targets(ids: types.TensorData | None, prompt: int, vocab_size: int) -> np.ndarray | None:
    """Token ids [prompt - 1, K] whose logprobs are asked for, -1 where none is, as in places that a sparse tensor
    does not list.
    """
    if ids is None:
        return None
    if ids.dtype != "int64" or len(ids.shape) != 2 or ids.shape[0] != prompt - 1 or not len(ids.values):
        raise DataError(
            f"target_prompt_logprobs are {ids.dtype} of shape {ids.shape}; for a prompt of {prompt} tokens they are "
            f"int64 of shape [{prompt - 1}, K] and name one id at least"
        )
    _check_cost(math.prod(ids.shape), MOST_PROMPT_CELLS, "target_prompt_logprobs")  # before a sparse one is made dense
    dense = ids.to_numpy(pad_value=-1)
    check_ids(np.where(dense == -1, 0, dense), vocab_size, "target_prompt_logprobs")
    return dense


def _as_asked(targets: types.TensorData | None, logprobs: np.ndarray | None) -> types.TensorData | None:
    """Logprobs of the targets in the layout in which those came."""
    if targets is None or logprobs is None:
        return None
    crow, col = targets.sparse_crow_indices, targets.sparse_col_indices
    if crow is None or col is None:
        return types.TensorData.from_numpy(logprobs)
    listed = logprobs[np.repeat(np.arange(len(logprobs)), np.diff(crow)), col]
    return types.TensorData(listed, "float32", targets.shape, crow, col)


def _top(rows: Sequence[Top], k: int) -> types.TopkLogprobs:
    ids = np.zeros((len(rows), k), np.int32)
    logprobs = np.full((len(rows), k), UNUSED_LOGPROB, np.float32)
    for i, row in enumerate(rows):
        for j, (token, logprob) in enumerate(row):
            ids[i, j], logprobs[i, j] = token, logprob
    return types.TopkLogprobs(ids, logprobs)
