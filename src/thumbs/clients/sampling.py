"""The samplers of a backend: frozen adapters on shared bases."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from thumbs.clients import types
from thumbs.clients.bases import Bases
from thumbs.clients.checkpoint_folders import readable
from thumbs.clients.drawing import Drawing
from thumbs.clients.sample_call import SampleCall
from thumbs.clients.served_weights import ServedWeights
from thumbs.clients.store import Store
from thumbs.engine.checkpoints import OPTIMIZER
from thumbs.errors import DataError, ThumbsError
from thumbs.rollout.sampler import OnToken, Sampler
from thumbs.storage import MissingError

MAX_WAITING_TOKENS = 2**25
"""Tokens of prompts and replies that may wait or be drawn at a time."""


class FullError(ThumbsError, RuntimeError):
    """Too many requests wait already; come back later."""


class Quota:
    """Tokens of work that may wait at a time; a single piece of work is taken at any size. words: what waits."""

    def __init__(self, most: int, words: str) -> None:
        self.most, self._words = most, words
        self._tokens, self._lock = 0, threading.Lock()

    def hold(self, tokens: int, begin: Callable[[], Future[Any]]) -> Future[Any]:
        """What `begin` returns, with its tokens counted until it is done; raises FullError if too much waits."""
        with self._lock:
            if self._tokens and self._tokens + tokens > self.most:
                raise FullError(f"{self._words} of {self._tokens} tokens wait already; collect some results first")
            self._tokens += tokens
        try:
            future = begin()
        except ThumbsError:
            self._release(tokens)
            raise
        future.add_done_callback(lambda _: self._release(tokens))
        return future

    def _release(self, tokens: int) -> None:
        with self._lock:
            self._tokens -= tokens


class Samplers:
    """Samplers by id; of those with adapters the `max_samplers` that were used last are in memory, all in `scratch`."""

    def __init__(
        self,
        store: Store,
        bases: Bases,
        drawing: Drawing[Any],
        scratch: Path,
        max_samplers: int,
        max_queued: int,
    ) -> None:
        self.store, self.bases, self.max_samplers, self.max_queued = store, bases, max_samplers, max_queued
        self.drawing, self._scratch = drawing, scratch
        self._opened: OrderedDict[str, ServedWeights] = OrderedDict()
        self._lock = threading.Lock()
        self.quota = Quota(MAX_WAITING_TOKENS, "samples")

    def open(
        self, sampler_id: str, session_id: str, owner: str, *, base_model: str | None = None, path: str | None = None
    ) -> None:
        """A sampler of a checkpoint, or of a bare base model; raises ThumbsError if there is no such thing."""
        if path is not None:
            base_model = self.store.checkpoints.find(path).base_model
        if base_model is None:
            raise DataError("a sampler needs a base_model or a model_path")
        sampler = self._made(sampler_id, session_id, base_model, path)
        self.store.add_sampler(sampler_id, session_id, owner, base_model, path)
        self.add(sampler_id, sampler)

    def add(self, sampler_id: str, sampler: ServedWeights) -> None:
        """A sampler of weights that are in its folder already."""
        with self._lock:
            self._opened[sampler_id] = sampler
            self._make_room()

    def sample(
        self, sampler_id: str, call: SampleCall, on_token: OnToken | None = None
    ) -> Future[types.SampleResponse]:
        """Samples. The same seed gives the same samples, which differ from each other; cancelling ends them.

        `on_token` is called on the thread that draws, or hears from those who do.
        Raises FullError if too much waits already, DataError for a prompt or settings that cannot be.
        """
        sampler = self._opened.get(sampler_id) or self._reopened(sampler_id)
        shape, stop_ids = sampler.base.shape, sampler.base.tokenizer.stop_ids
        request = call.request(shape.vocab_size, shape.context, stop_ids, on_token)
        if self.drawing.waiting >= self.max_queued:
            raise FullError(f"{self.drawing.waiting} requests for samples wait already")
        find = partial(self._in_memory, sampler_id, sampler)
        return self.quota.hold(
            len(request.prompt) + call.num_samples * request.params.max_new_tokens,
            lambda: self.drawing.sample(sampler, find, request, partial(call.response, request)),
        )

    def close(self, sampler_id: str) -> None:
        """Forgets a sampler; what is being sampled goes on."""
        with self._lock:
            self._opened.pop(sampler_id, None)
        shutil.rmtree(self.folder(sampler_id), ignore_errors=True)

    @property
    def loaded(self) -> int:
        """Adapters in memory."""
        with self._lock:
            return len(self._loaded())

    def folder(self, sampler_id: str) -> Path:
        """Where the adapter of a sampler is kept."""
        return self._scratch / sampler_id.replace(":", "_")

    def _made(self, sampler_id: str, session_id: str, base_model: str, path: str | None) -> ServedWeights:
        folder = None
        if path is not None:
            folder = self.folder(sampler_id)
            # A copy, since the checkpoint may be deleted or overwritten while the sampler is in use.
            unwanted = shutil.ignore_patterns(OPTIMIZER)
            shutil.copytree(self.store.checkpoints.find(path).folder, folder, ignore=unwanted, dirs_exist_ok=True)
        return ServedWeights(self.bases[base_model], session_id, folder)

    def _reopened(self, sampler_id: str) -> ServedWeights:
        """A sampler of a checkpoint that an earlier process opened; of other weights nothing was kept."""
        gone = DataError(f"sampler {sampler_id!r} is gone; make a new one from a checkpoint or the training client")
        try:
            record = self.store.sampler(sampler_id)
            ended = self.store.session(record.session_id).finished is not None
        except MissingError:
            raise gone from None
        if record.model_path is None or ended:
            raise gone
        sampler = self._made(sampler_id, record.session_id, record.base_model, record.model_path)
        self.add(sampler_id, sampler)
        return sampler

    def _make_room(self) -> None:
        """Lets go of the adapters that were not used for longest; the lock is held."""
        loaded = self._loaded()
        for each in loaded[: max(len(loaded) - self.max_samplers, 0)]:
            each.sampler = None

    def _loaded(self) -> list[ServedWeights]:
        return [each for each in self._opened.values() if each.folder is not None and each.sampler is not None]

    def _in_memory(self, sampler_id: str, served: ServedWeights) -> Sampler:
        """The sampler, with its adapter loaded."""
        with readable(sampler_id):
            sampler = served.opened(self.drawing.open)
        with self._lock:
            if sampler_id in self._opened:  # not closed meanwhile
                self._opened.move_to_end(sampler_id)
                self._make_room()
        return sampler
