"""Models: making them, from a base or a checkpoint, and asking about them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients import types
from thumbs.clients.rest_client import info_of
from thumbs.errors import DataError
from thumbs.service.promises import PromisedOperation
from thumbs.service.requests import Body, Int64, Metadata, answer, owner_of, parse, peek, read
from thumbs.service.state import route
from thumbs.service.submissions import ModelOperations, Numbered, Optimizer, encode_json


class _Lora(types.LoraConfig, Body):
    rank: int = Field(default=32, ge=1, le=1024)


class _New(Body):
    session_id: str
    model_seq_id: Int64
    user_metadata: Metadata | None = None
    optimizer_config: Optimizer = Optimizer()


class _NewFromBase(_New):
    base_model: str
    lora_config: _Lora = _Lora()


class _NewFromCheckpoint(_New):
    path: str
    optimizer: bool = False
    base_model: str | None = None


class _Load(Numbered):
    path: str
    optimizer: bool = False
    optimizer_config: Optimizer = Optimizer()


class _Target(Body):
    model_id: str | None = None


class ModelRoutes(ModelOperations):
    """What a ServiceClient calls to get a TrainingClient."""

    @route("POST", "/create_model")
    async def create_model(self, request: Request) -> Response:
        """A new adapter on a base model."""
        raw = await request.body()
        body = parse(_NewFromBase, raw)

        def start(run_id: str) -> Future[Any]:
            lora, owner = body.lora_config, owner_of(request)
            return self._backend.create_model(run_id, body.session_id, owner, body.base_model, lora, body.user_metadata)

        return await self._create(request, "create_model", body, raw, start)

    @route("POST", "/load_weights")
    async def load_weights(self, request: Request) -> Response:
        """Weights of a checkpoint: into a model that is there (load_state; SDK 0.22), or a new model (SDK 0.38)."""
        raw = await request.body()
        if peek(_Target, raw).model_id is not None:
            return await self._load(request)
        body = parse(_NewFromCheckpoint, raw)

        def start(run_id: str) -> Future[Any]:
            owner = owner_of(request)
            record = self._store.checkpoints.find(body.path, owner)
            path, base = record.path, record.base_model
            if body.base_model not in (None, base):
                raise DataError(f"base_model {body.base_model!r}: {path} is of {base!r}, which cannot be changed")
            return self._backend.create_from(run_id, body.session_id, owner, path, body.optimizer, body.user_metadata)

        return await self._create(request, "load_weights", body, raw, start)

    @route("POST", "/get_info")
    async def get_info(self, request: Request) -> Response:
        """What a model is made of, and where its tokenizer is."""
        body = await read(request, Numbered)
        run = await self._record(self._store.run, body.model_id, owner_of(request))
        info = (await self._work(info_of, run, self._backend.bases[run.base_model])).model_dump(exclude_none=True)
        if not self._service.settings.local_paths:
            info["model_data"].pop("tokenizer_id", None)
        return answer(info)

    @route("POST", "/unload_model")
    async def unload_model(self, request: Request) -> Response:
        """Takes a model out of memory; its checkpoints stay."""
        told = {"model_id": parse(Numbered, await request.body()).model_id, "type": "unload_model"}
        unload = self._backend.unload
        return await self._submit(request, "unload_model", Numbered, lambda body: unload(body.model_id), lambda _: told)

    @route("DELETE", "/models/{model_id}")
    async def delete(self, request: Request) -> Response:
        """Does the same as `unload_model`, at once and without a promise; doing it twice is not an error."""
        run = await self._record(self._store.run, request.path_params["model_id"], owner_of(request))
        await self._work(self._backend.unload, run.id)
        return answer({"model_id": run.id, "type": "unload_model"})

    async def _create(
        self, request: Request, kind: str, body: _New, raw: bytes, start: Callable[[str], Future[Any]]
    ) -> Response:
        """The promise of a new model. Clients work out the name {session}:train:{number} by themselves."""
        owner = owner_of(request)
        await self._service.joined_session(body.session_id, owner)
        run_id = f"{body.session_id}:train:{body.model_seq_id}"
        encode = encode_json(lambda _: {"model_id": run_id, "type": kind})
        key = (f"models of {body.session_id}", body.model_seq_id)
        operation = PromisedOperation(kind, owner, body.session_id, key, raw, lambda: start(run_id), encode)
        return answer({"request_id": await self._service.promises.submit(operation), "model_id": run_id})

    async def _load(self, request: Request) -> Response:
        def start(body: _Load) -> Future[Any]:
            path = self._store.checkpoints.find(body.path, owner_of(request)).path
            return self._backend.load(body.model_id, body.seq_id, path, body.optimizer)

        told = {"model_id": peek(Numbered, await request.body()).model_id, "type": "load_weights"}
        return await self._submit(request, "load_weights", _Load, start, lambda _: told)
