"""Logprobs of prompts, for samplers that do not read any: the engine that trains computes them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from thumbs.clients.lanes import Work
from thumbs.clients.served_weights import ServedWeights
from thumbs.clients.worker import Worker
from thumbs.config.model import AdapterConfig
from thumbs.engine.base import ModelSpec, OpenEngine
from thumbs.engine.checkpoints import lora_of
from thumbs.errors import ConfigError
from thumbs.records import Example
from thumbs.rollout.sampler import PromptAnswer, PromptQuery, SampleRequest


class PromptScoring:
    """Answers what a request asks about its prompt by a frozen model of the same weights, in turn with training."""

    def __init__(self, engine: OpenEngine, worker: Worker) -> None:
        self._engine, self._worker = engine, worker

    def __call__(self, served: ServedWeights, request: SampleRequest) -> Future[PromptAnswer]:
        """Raises ConfigError for likeliest or drawn tokens: an engine tells logprobs of tokens that are named."""
        query = request.about_prompt or PromptQuery()
        if query.top or query.draws:
            raise ConfigError(
                "this server tells logprobs of a prompt's own and of chosen tokens, and neither the likeliest in their "
                "places nor draws; leave topk_prompt_logprobs and prompt_alt_tokens_k out"
            )
        lane = f"prompts of {served.client}"
        future = self._worker.submit(lane, partial(self._read, served, request.prompt, query))
        future.add_done_callback(lambda _: self._worker.forget(lane))
        return future

    def _read(self, served: ServedWeights, prompt: Sequence[int], query: PromptQuery) -> Work:
        targets = np.asarray(prompt[1:], np.int64)[:, None]
        if query.targets is not None:
            targets = np.concatenate([targets, np.maximum(query.targets, 0)], 1)
        # A fresh adapter changes nothing, and shares the base with the others.
        lora = AdapterConfig(rank=1) if served.folder is None else lora_of(served.folder)
        model = served.base.config.model_copy(update={"lora": lora})
        yield
        if len(prompt) < 2:
            return PromptAnswer(np.empty(0, np.float32))
        handle = self._engine.create(ModelSpec("prompts", model, start=served.folder, trainable=False))
        try:
            example = Example(
                np.asarray(prompt[:-1], np.int64), targets, {"weights": np.ones(targets.shape, np.float32)}
            )
            (output,) = self._engine.forward(handle, [example])
        finally:
            self._engine.close(handle)
        own, chosen = output.logprobs[:, 0], None
        if query.targets is not None:
            chosen = np.where(query.targets == -1, 0, output.logprobs[:, 1:])
        return PromptAnswer(own if query.logprobs else None, targets=chosen)
