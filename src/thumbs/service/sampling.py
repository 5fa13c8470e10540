"""Sampling sessions and samples."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import fields
from functools import partial
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients import types
from thumbs.clients.sample_call import SampleCall
from thumbs.errors import DataError
from thumbs.records import Message
from thumbs.service import wire
from thumbs.service.promises import PromisedOperation
from thumbs.service.requests import Body, Int64, answer, owner_of, parse, read
from thumbs.service.state import Routes, route
from thumbs.storage import MissingError


class _NewSampler(Body):
    session_id: str
    sampling_session_seq_id: Int64
    base_model: str | None = None
    model_path: str | None = None


class _SamplingParams(Body, types.SamplingParams):
    """Nothing more than what is read: the SDKs drop everything else themselves."""


class _Sample(Body):
    harmless = ("record_stability_info",)

    sampling_session_id: str
    seq_id: Int64 | None = None
    num_samples: int = Field(default=1, ge=1, le=4096)
    prompt: dict[str, Any]
    sampling_params: _SamplingParams = _SamplingParams()
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = Field(default=0, ge=0)
    topk_sample_logprobs: int = Field(default=0, ge=0)
    prompt_logprobs_last_n: int | None = Field(default=None, ge=1)
    target_prompt_logprobs: dict[str, Any] | None = None
    prompt_alt_tokens_k: int = Field(default=0, ge=0)


class SamplingRoutes(Routes):
    """What a SamplingClient calls."""

    @route("POST", "/create_sampling_session")
    async def create_sampling_session(self, request: Request) -> Response:
        """A sampler on a checkpoint, or on a base model; the same again is the same sampler."""
        body = await read(request, _NewSampler)
        owner = owner_of(request)
        await self._service.joined_session(body.session_id, owner)
        find = self._store.checkpoints.find
        path = (await self._record(find, body.model_path, owner)).path if body.model_path else None
        sampler_id = f"{body.session_id}:sample:{body.sampling_session_seq_id}"
        try:
            known = await self._record(self._store.sampler, sampler_id, owner)
        except MissingError:
            opened, asked = self._backend.samplers.open, {"base_model": body.base_model, "path": path}
            await self._work(opened, sampler_id, body.session_id, owner, **asked)
            known = await self._record(self._store.sampler, sampler_id, owner)
        if known.model_path != path or (path is None and known.base_model != body.base_model):
            raise DataError(f"sampler {sampler_id} was already created from something else")
        return answer({"type": "create_sampling_session", "sampling_session_id": sampler_id})

    @route("POST", "/asample")
    async def asample(self, request: Request) -> Response:
        """The promise of samples of one prompt; 429, on which clients slow down, where too many wait."""
        raw = await request.body()
        body = parse(_Sample, raw)
        owner = owner_of(request)
        sampler = await self._record(self._store.sampler, body.sampling_session_id, owner)
        key = None if body.seq_id is None else (sampler.id, body.seq_id)
        operation = PromisedOperation(
            "sample",
            owner,
            sampler.session_id,
            key,
            raw,
            partial(self._sample, sampler.base_model, body),
            wire.encode_result,
        )
        request_id = await self._service.promises.submit(operation)
        names = [f"{request_id}-{i}" for i in range(body.num_samples)]
        return answer({"request_id": request_id, "sample_sequence_ids": names})

    def _sample(self, base: str, body: _Sample) -> Future[Any]:
        asked = {each.name: getattr(body, each.name) for each in fields(SampleCall)}
        asked["prompt"] = wire.decode_model_input(body.prompt)
        if body.target_prompt_logprobs is not None:
            asked["target_prompt_logprobs"] = wire.decode_tensor(body.target_prompt_logprobs)
        call, screen = SampleCall(**asked), self._service.screen
        begin = partial(self._backend.samplers.sample, body.sampling_session_id, call)
        if screen is None:
            return begin()
        tokenizer = self._backend.bases[base].tokenizer
        talk = [Message("user", tokenizer.decode(call.prompt.to_ints()))]
        return screen.sample(talk, tokenizer.decode, begin, together=True)
