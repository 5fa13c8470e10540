"""Sampling from our own weights: prompts are prefilled once, rows decode together, finished rows leave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from thumbs.errors import ConfigError, DataError
from thumbs.records import Sample
from thumbs.rollout.draw import draw, uniforms
from thumbs.rollout.sampler import DecodingParams

MAX_ROWS = 128
"""Sequences decoded together; on two cores 128 gave 1.1 to 1.4 times the tokens/s of 64 (docs/log.md)."""

CACHE_TOKENS = 65_536
"""Tokens of room in a cache, 46 kB each in a 135M model in float32; long sequences decode in fewer rows."""


class DecodingModel(Protocol):
    """What a model must offer to be sampled from."""

    context: int
    width: int

    def logits(self, hidden: Tensor) -> Tensor: ...
    def new_cache(self, rows: int, length: int) -> Any: ...
    def prefill(self, prompts: list[list[int]], cache: Any) -> Tensor: ...
    def decode(self, tokens: Tensor, cache: Any) -> Tensor: ...


@dataclass
class _Reply:
    """A request in progress."""

    index: int
    u: np.ndarray
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


class NativeSampler:
    """Draws from a frozen model. `decode_text` is needed only for stop strings."""

    def __init__(
        self, model: DecodingModel, policy_version: int, decode_text: Callable[[list[int]], str] | None = None
    ) -> None:
        self.model, self.policy_version, self.decode_text = model, policy_version, decode_text

    @torch.no_grad()
    def sample(self, prompts: Sequence[Sequence[int]], params: DecodingParams, seeds: Sequence[int]) -> list[Sample]:
        """One sample a prompt, in order; equal prompts are prefilled once."""
        if params.stop_strings and self.decode_text is None:
            raise ConfigError("stop strings need a sampler that can decode text; give stop tokens instead")
        if not all(len(prompt) for prompt in prompts):
            raise DataError("an empty prompt cannot be continued; start it with the tokenizer's first token at least")
        longest = max((len(p) for p in prompts), default=0) + params.max_new_tokens
        if longest > self.model.context:
            raise ConfigError(
                f"prompt and reply together reach {longest} tokens; the model's context is {self.model.context}. "
                "Shorten the prompts or lower max_new_tokens"
            )
        # Equal prompts side by side share a prefill; within a wave the order changes no result.
        order = sorted(range(len(prompts)), key=lambda i: (tuple(prompts[i]), i))
        done: dict[int, Sample] = {}
        rows = max(min(MAX_ROWS, CACHE_TOKENS // max(longest, 1)), 1)
        for start in range(0, len(order), rows):
            wave = order[start : start + rows]
            replies = [_Reply(i, uniforms(seeds[i], params.max_new_tokens)) for i in wave]
            self._run([list(prompts[i]) for i in wave], replies, params)
            done |= {reply.index: self._sample(reply) for reply in replies}
        return [done[i] for i in range(len(prompts))]

    def _run(self, prompts: list[list[int]], replies: list[_Reply], params: DecodingParams) -> None:
        """Fills `replies` by decoding all rows together until each has stopped."""
        unique = list(dict.fromkeys(tuple(p) for p in prompts))
        cache = self.model.new_cache(len(unique), max(map(len, prompts)) + params.max_new_tokens)
        hidden = self.model.prefill([list(p) for p in unique], cache)
        place = {p: i for i, p in enumerate(unique)}
        rows = torch.tensor([place[tuple(p)] for p in prompts], device=hidden.device)
        cache.select(rows)
        hidden, live = hidden[rows], list(replies)
        for step in range(params.max_new_tokens):
            u = torch.from_numpy(np.array([reply.u[step] for reply in live])).to(hidden.device)
            tokens, logprobs = draw(self.model.logits(hidden), u, params)
            for reply, token, logprob in zip(live, tokens.tolist(), logprobs.tolist(), strict=True):
                if not reply.stopped:
                    self._take(reply, token, logprob, params)
            if all(reply.stopped for reply in live) or step + 1 == params.max_new_tokens:
                return
            active = [i for i, reply in enumerate(live) if not reply.stopped]
            if len(active) <= 0.75 * len(live):  # moving the cache costs time, so finished rows leave in batches
                keep = torch.tensor(active, device=hidden.device)
                cache.select(keep)
                tokens, live = tokens[keep], [live[i] for i in active]
            hidden = self.model.decode(tokens, cache)

    def _take(self, reply: _Reply, token: int, logprob: float, params: DecodingParams) -> None:
        reply.tokens.append(token)
        reply.logprobs.append(logprob)
        reply.stopped = token in params.stop_tokens
        if params.stop_strings and not reply.stopped and self.decode_text is not None:
            text = self.decode_text(reply.tokens)
            reply.stopped = any(stop in text for stop in params.stop_strings)

    def _sample(self, reply: _Reply) -> Sample:
        return Sample(
            tokens=np.array(reply.tokens, dtype=np.int64),
            logprobs=np.array(reply.logprobs, dtype=np.float32),
            stop_reason="stop" if reply.stopped else "length",
            policy_version=self.policy_version,
        )
