"""The half of the backend that samples: frozen adapters on shared bases, all of one base in one pool."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from thumbs.clients import translate, types
from thumbs.clients.bases import Base, Bases
from thumbs.clients.checkpoint_folders import readable
from thumbs.clients.store import Store
from thumbs.clients.tables import CheckpointRecord
from thumbs.clients.worker import Worker
from thumbs.engine.base import AdapterSource
from thumbs.engine.checkpoints import OPTIMIZER
from thumbs.errors import CheckpointError, DataError, ThumbsError
from thumbs.models.base import FrozenAdapter
from thumbs.rollout.pool import Heard, SampleRequest, SamplingPool

MAX_WAITING_TOKENS = 2**25
"""Tokens of prompts and replies that may wait or be drawn at a time; a single request is taken whatever waits."""


class FullError(ThumbsError, RuntimeError):
    """Too many requests wait already; come back later."""


@dataclass(eq=False)
class ServedWeights:
    """Weights to sample from. client: with whom others take turns; folder: of its adapter, None for the bare base."""

    base: Base
    client: str
    folder: Path | None = None
    adapter: FrozenAdapter | None = None


class Sampling:
    """Samplers by id; of those with adapters the `max_samplers` that were used last are in memory."""

    def __init__(
        self, store: Store, bases: Bases, engine: AdapterSource, worker: Worker, max_samplers: int, max_queued: int
    ) -> None:
        self.store, self.bases, self.max_samplers, self.max_queued = store, bases, max_samplers, max_queued
        self._adapters, self._worker = engine, worker
        self._samplers: OrderedDict[str, ServedWeights] = OrderedDict()
        self._pools: dict[int, SamplingPool] = {}
        self._lock = threading.Lock()
        self._waiting_tokens = 0
        self._spilled = tempfile.TemporaryDirectory(prefix="thumbs-")

    def open_sampler(
        self, sampler_id: str, session_id: str, owner: str, *, base_model: str | None = None, path: str | None = None
    ) -> None:
        """A sampler of a checkpoint, or of a bare base model; raises ThumbsError where there is no such thing."""
        if path is not None:
            run = self.store.run(self._checkpoint(path).run_id)
            base_model = None if run is None else run.base_model
        if base_model is None:
            raise DataError("a sampler needs a base_model or a model_path")
        sampler = self._made(sampler_id, session_id, base_model, path)
        self.store.add_sampler(sampler_id, session_id, owner, base_model, path)
        self._add(sampler_id, sampler)

    def sample(
        self,
        sampler_id: str,
        prompt: types.ModelInput,
        num_samples: int,
        params: types.SamplingParams,
        *,
        prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: types.TensorData | None = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
        heard: Heard | None = None,
    ) -> Future[types.SampleResponse]:
        """Samples. The same seed gives the same samples, which differ from each other; cancelling ends them.

        `heard` is told of each token as it is drawn, on the worker's thread.
        Raises FullError where too much waits already, DataError for a prompt or settings that cannot be.
        """
        sampler = self._samplers.get(sampler_id) or self._reopened(sampler_id)
        shape = sampler.base.shape
        tokens = translate.prompt_tokens(prompt, shape.vocab_size)
        settings = translate.sampling_params(params, len(tokens), shape.context, sampler.base.tokenizer.stop_ids)
        top = translate.likeliest_count(topk_sample_logprobs, shape.vocab_size, "topk_sample_logprobs")
        translate.check_samples(num_samples, settings, top)
        seed = secrets.randbits(62) if params.seed is None else params.seed % 2**62
        request = SampleRequest(
            sampler.client,
            tokens.tolist(),
            settings,
            range(seed, seed + num_samples),
            wants_prompt_logprobs=prompt_logprobs or topk_prompt_logprobs > 0,
            prompt_top=translate.prompt_top(topk_prompt_logprobs, len(tokens), shape.vocab_size),
            prompt_targets=translate.prompt_targets(target_prompt_logprobs, len(tokens), shape.vocab_size),
            prompt_draws=translate.prompt_draws(prompt_alt_tokens_k, len(tokens)),
            top=top,
            heard=heard,
        )
        cost = len(tokens) + num_samples * settings.max_new_tokens
        self._reserve(cost)
        try:
            future = self._worker.sample(
                lambda: self._pool(sampler_id, sampler, request),
                request,
                lambda done: translate.sample_response(done, prompt_logprobs_last_n, target_prompt_logprobs),
            )
        except ThumbsError:
            self._release(cost)
            raise
        future.add_done_callback(lambda _: self._release(cost))
        return future

    def _reserve(self, tokens: int) -> None:
        """Raises FullError where too much waits already."""
        with self._lock:
            if self._worker.samples >= self.max_queued:
                raise FullError(f"{self._worker.samples} requests for samples wait already")
            if self._waiting_tokens and self._waiting_tokens + tokens > MAX_WAITING_TOKENS:
                raise FullError(f"samples of {self._waiting_tokens} tokens wait already; collect some of them first")
            self._waiting_tokens += tokens

    def _release(self, tokens: int) -> None:
        with self._lock:
            self._waiting_tokens -= tokens

    def close_sampler(self, sampler_id: str) -> None:
        """Forgets a sampler; what is being sampled goes on."""
        with self._lock:
            self._samplers.pop(sampler_id, None)
        shutil.rmtree(self._spill(sampler_id), ignore_errors=True)

    def _made(self, sampler_id: str, session_id: str, base_model: str, path: str | None) -> ServedWeights:
        folder = None
        if path is not None:
            folder = self._spill(sampler_id)
            # A copy, since the checkpoint may be deleted or overwritten while the sampler is in use.
            unwanted = shutil.ignore_patterns(OPTIMIZER)
            shutil.copytree(self._checkpoint(path).folder, folder, ignore=unwanted, dirs_exist_ok=True)
        return ServedWeights(self.bases[base_model], session_id, folder)

    def _reopened(self, sampler_id: str) -> ServedWeights:
        """A sampler of a checkpoint that an earlier process opened; of other weights nothing was kept."""
        record = self.store.sampler(sampler_id)
        session = None if record is None else self.store.session(record.session_id)
        if record is None or record.model_path is None or session is None or session.finished is not None:
            raise DataError(f"sampler {sampler_id!r} is gone; make a new one from a checkpoint or the training client")
        sampler = self._made(sampler_id, record.session_id, record.base_model, record.model_path)
        self._add(sampler_id, sampler)
        return sampler

    def _add(self, sampler_id: str, sampler: ServedWeights) -> None:
        with self._lock:
            self._samplers[sampler_id] = sampler
            self._make_room_for_samplers()

    def _make_room_for_samplers(self) -> None:
        """Lets go of the adapters that were not used for longest; the lock is held."""
        loaded = [each for each in self._samplers.values() if each.adapter is not None]
        for each in loaded[: max(len(loaded) - self.max_samplers, 0)]:
            each.adapter = None

    def _pool(self, sampler_id: str, sampler: ServedWeights, request: SampleRequest) -> SamplingPool:
        """The pool of the sampler's base, after the request has got the sampler's adapter."""
        base = sampler.base
        if sampler.folder is not None and sampler.adapter is None:
            with readable(sampler_id):
                sampler.adapter = self._adapters.read_adapter(sampler.folder)
        request.adapter = sampler.adapter
        with self._lock:
            if sampler_id in self._samplers:  # not closed meanwhile
                self._samplers.move_to_end(sampler_id)
                self._make_room_for_samplers()
        model = self._adapters.frozen_base(base.config)
        if id(model) not in self._pools:  # one for all names of a base
            self._pools[id(model)] = SamplingPool(model, lambda tokens: base.tokenizer.decode(tokens, False))
        return self._pools[id(model)]

    def _checkpoint(self, path: str) -> CheckpointRecord:
        record = self.store.checkpoint(path)
        if record is None:
            raise CheckpointError(f"there is no checkpoint {path!r}; it may have expired or been deleted")
        return record

    def _spill(self, name: str) -> Path:
        return Path(self._spilled.name) / name.replace(":", "_")
