"""Continuous batching for many clients: one frozen base, an adapter a request, rows that come and go at every step.

`NativeSampler` serves a stage, which has one policy and all its prompts at once; this serves whoever asks whenever.
A sample depends on its own prompt, settings and seed; in other company its numbers may differ in their last bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thumbs.models.base import Cache, FrozenAdapter, Trunk
from thumbs.rollout.draw import draw, tempered, uniforms
from thumbs.rollout.native import CACHE_TOKENS, MAX_ROWS
from thumbs.rollout.prompt_reading import Top, likeliest, read_prompt
from thumbs.rollout.sampler import DecodingParams

Heard = Callable[[int, int, float, Top], None]
"""Hears of a token as it is drawn: the sample's number, the token, its logprob, the likeliest tokens in its place."""

ROOM = 128
"""Tokens by which a cache grows."""

PREFILL_TOKENS = 2048
"""Prompt tokens that are read between two steps of the rows that decode already (one prompt at least)."""


@dataclass(eq=False)
class ReplyInProgress:
    """One sample in progress; top: the likeliest tokens where each of its tokens was drawn. u: what it is drawn with,
    once it is let in: what waits should cost no more than its prompt.
    """

    request: SampleRequest
    number: int
    seed: int
    u: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Top] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        """Whether no token will follow."""
        long = len(self.tokens) >= self.request.params.max_new_tokens
        return self.stopped or long or self.request.cancelled


@dataclass(eq=False)
class SampleRequest:
    """`len(seeds)` samples of one prompt. client: with whom others take turns; top, prompt_top: how many likeliest
    tokens to tell.

    `replies` hold the samples. Where they were asked for, prompt_logprobs are those of the prompt's tokens after the
    first (nats, at temperature 1), and prompt_alternatives the likeliest tokens in the place of each. target_logprobs
    are those of prompt_targets [N - 1, K] (0 for an id of -1), and drawn tokens and logprobs of prompt_draws tokens a
    place, drawn at the temperature of the samples; both in pieces. `heard` is told the number of a sample and each
    token that it gets, at once, with its logprob and the likeliest tokens in its place.
    """

    client: Hashable
    prompt: list[int]
    params: DecodingParams
    seeds: Sequence[int]
    adapter: FrozenAdapter | None = None
    wants_prompt_logprobs: bool = False
    prompt_top: int = 0
    prompt_targets: np.ndarray | None = None
    prompt_draws: int = 0
    top: int = 0
    prompt_logprobs: np.ndarray | None = None
    prompt_alternatives: list[Top] = field(default_factory=list)
    target_logprobs: list[np.ndarray] = field(default_factory=list)
    drawn: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    prompt_is_read: bool = False
    heard: Heard | None = None
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.replies = [ReplyInProgress(self, number, seed) for number, seed in enumerate(self.seeds)]
        self.begun = 0  # replies that have been let in

    @property
    def asks_of_prompt(self) -> bool:
        """Whether the prompt is to be looked at for its own sake."""
        asked = self.wants_prompt_logprobs or self.prompt_top or self.prompt_draws
        return bool(asked) or self.prompt_targets is not None

    @property
    def reach(self) -> int:
        """Tokens of prompt and reply together, at most."""
        return len(self.prompt) + self.params.max_new_tokens

    @property
    def finished(self) -> bool:
        """Whether every sample is complete."""
        return all(reply.done for reply in self.replies)


class SamplingPool:
    """Requests wait in a queue for each client, and the clients take turns; `step` moves everybody by one token."""

    def __init__(self, model: Trunk, decode_text: Callable[[list[int]], str]) -> None:
        self.model, self.decode_text = model, decode_text
        self.waiting: dict[Hashable, deque[SampleRequest]] = {}
        self._rows: list[ReplyInProgress] = []
        self._cache: Cache | None = None
        self._hidden = torch.empty(0)

    def add(self, request: SampleRequest) -> None:
        """Queues a request."""
        self.waiting.setdefault(request.client, deque()).append(request)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._rows and not self.waiting

    @property
    def live(self) -> int:
        """Rows that decode together now."""
        return len(self._rows)

    @torch.no_grad()
    def step(self) -> list[SampleRequest]:
        """One token for every row, new rows among them; returns the requests that are finished."""
        self._admit()
        before = [reply for reply in self._rows if not reply.done]
        tokens = self._draw() if before else torch.empty(0, dtype=torch.long)
        self._advance(tokens)
        touched = dict.fromkeys(reply.request for reply in before)
        return [request for request in touched if request.finished]

    def clear(self) -> list[SampleRequest]:
        """Forgets everything, as after an error; returns the requests that were in it."""
        requests = [reply.request for reply in self._rows] + [r for queue in self.waiting.values() for r in queue]
        self.waiting, self._rows, self._cache = {}, [], None
        return list(dict.fromkeys(requests))

    def _admit(self) -> None:
        """Lets in what fits, reads its prompts and puts its rows below the others."""
        new: list[ReplyInProgress] = []
        read = 0
        while self.waiting and (not new or read < PREFILL_TOKENS):
            client = next(iter(self.waiting))
            request = self.waiting[client][0]
            count = len(request.replies) - request.begun
            if not request.cancelled:
                count = self._fitting(request, new)
                if count == 0:
                    break
                new += request.replies[request.begun : request.begun + count]
                read += len(request.prompt)
            request.begun += count
            queue = self.waiting.pop(client)  # to the end: the next client's turn
            if request.begun == len(request.replies):
                queue.popleft()
            if queue:
                self.waiting[client] = queue
        if new:
            self._join(new)

    def _fitting(self, request: SampleRequest, new: list[ReplyInProgress]) -> int:
        """How many more samples of a request can be let in."""
        rows = [*new, *(reply for reply in self._rows if not reply.done)]
        reach = max([request.reach, *(reply.request.reach for reply in rows)])
        free = max(min(MAX_ROWS, CACHE_TOKENS // reach), 1) - len(rows)
        return max(min(free, len(request.replies) - request.begun), 0)

    def _join(self, new: list[ReplyInProgress]) -> None:
        """Reads the prompts of new rows, which take the places of rows that are done, or stand below the others."""
        by_adapter: dict[int, list[ReplyInProgress]] = {}
        for reply in new:
            reply.u = uniforms(reply.seed, reply.request.params.max_new_tokens)
            by_adapter.setdefault(id(reply.request.adapter), []).append(reply)
        read = [self._prefill(replies) for replies in by_adapter.values()]
        caches, hidden = [cache for cache, _ in read], torch.cat([states for _, states in read])
        new = [reply for replies in by_adapter.values() for reply in replies]
        longest = max(int(cache.lengths.max()) for cache in caches)
        done = [place for place, reply in enumerate(self._rows) if reply.done]
        if self._cache is not None and len(done) >= len(new) and longest < self._cache.room:
            places = torch.tensor(done[: len(new)], device=hidden.device)
            self._cache.put(places, caches)
            self._hidden = self._hidden.index_copy(0, places, hidden)
            for place, reply in zip(done, new, strict=False):
                self._rows[place] = reply
            return
        if self._cache is not None:
            self._drop([i for i, reply in enumerate(self._rows) if not reply.done])
            caches, hidden = [self._cache, *caches], torch.cat([self._hidden, hidden])
        longest = max(int(cache.lengths.max()) for cache in caches)
        self._cache = caches[0].joined(caches[1:], longest + ROOM)
        self._hidden, self._rows = hidden, [*self._rows, *new]

    def _drop(self, kept: list[int]) -> None:
        """Leaves only the rows at the places that are kept."""
        assert self._cache is not None  # noqa: S101
        places = torch.tensor(kept, dtype=torch.long, device=self._hidden.device)
        self._cache.select(places)
        self._hidden, self._rows = self._hidden[places], [self._rows[i] for i in kept]

    def _prefill(self, replies: list[ReplyInProgress]) -> tuple[Cache, Tensor]:
        """Cache and last states [B, D] of replies with one adapter; equal prompts are read once."""
        adapter = replies[0].request.adapter
        prompts = list(dict.fromkeys(tuple(reply.request.prompt) for reply in replies))
        cache = self.model.new_cache(len(prompts), max(map(len, prompts)))
        hidden = self.model.prefill([list(prompt) for prompt in prompts], cache, adapter)
        place = {prompt: i for i, prompt in enumerate(prompts)}
        rows = torch.tensor([place[tuple(reply.request.prompt)] for reply in replies], device=hidden.device)
        cache.select(rows)
        for request in dict.fromkeys(reply.request for reply in replies):
            if request.asks_of_prompt and not request.prompt_is_read:
                read_prompt(self.model, request)
                request.prompt_is_read = True
        return cache, hidden[rows]

    def _draw(self) -> Tensor:
        """The next token of each row [B]; rows with equal settings draw together."""
        logits = self.model.logits(self._hidden)
        tokens = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        groups: dict[tuple[float, int, float], list[int]] = {}
        for place, reply in enumerate(self._rows):
            p = reply.request.params
            if not reply.done:
                groups.setdefault((p.temperature, p.top_k, p.top_p), []).append(place)
        for places in groups.values():
            replies = [self._rows[i] for i in places]
            at, params = torch.tensor(places, device=logits.device), replies[0].request.params
            u = torch.tensor([reply.u[len(reply.tokens)] for reply in replies], device=logits.device)
            own = logits[at]
            drawn, logprobs = draw(own, u, params)
            tokens[at] = drawn
            self._take(replies, own, drawn.tolist(), logprobs.tolist())
        return tokens

    def _take(self, replies: list[ReplyInProgress], logits: Tensor, tokens: list[int], logprobs: list[float]) -> None:
        for i, (reply, token, logprob) in enumerate(zip(replies, tokens, logprobs, strict=True)):
            params, top = reply.request.params, reply.request.top
            others = likeliest(tempered(logits[i : i + 1], params.temperature or 1.0), top) if top else []
            reply.top += others
            reply.tokens.append(token)
            reply.logprobs.append(logprob)
            if reply.request.heard is not None:
                reply.request.heard(reply.number, token, logprob, others[0] if others else [])
            reply.stopped = token in params.stop_tokens
            if params.stop_strings and not reply.stopped:
                text = self.decode_text(reply.tokens)
                reply.stopped = any(stop in text for stop in params.stop_strings)

    def _advance(self, tokens: Tensor) -> None:
        """Reads the tokens of the rows that go on; the others are dropped in batches, since that moves the cache."""
        kept = [i for i, reply in enumerate(self._rows) if not reply.done]
        if not kept:
            self._rows, self._cache = [], None
            return
        assert self._cache is not None  # noqa: S101
        if len(kept) <= 0.75 * len(self._rows) and not self.waiting:
            tokens = tokens[kept]
            self._drop(kept)
        if int(self._cache.lengths.max()) == self._cache.room:
            self._cache = self._cache.joined([], self._cache.room + ROOM)
        self._hidden = self.model.decode(tokens, self._cache, self._adapters())

    def _adapters(self) -> list[tuple[slice | Tensor, FrozenAdapter]]:
        """Each adapter with its rows."""
        places: dict[int, list[int]] = {}
        for place, reply in enumerate(self._rows):
            if reply.request.adapter is not None:
                places.setdefault(id(reply.request.adapter), []).append(place)
        if len(places) == 1 and len(next(iter(places.values()))) == len(self._rows):
            adapter = self._rows[0].request.adapter
            return [(slice(None), adapter)] if adapter is not None else []
        found: list[tuple[slice | Tensor, FrozenAdapter]] = []
        for own in places.values():
            adapter = self._rows[own[0]].request.adapter
            if adapter is not None:
                found.append((torch.tensor(own, device=self._hidden.device), adapter))
        return found
