"""Training: passes, optimizer steps and checkpoints of a model. Every operation answers with a promise."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients import types
from thumbs.errors import ConfigError
from thumbs.service import wire
from thumbs.service.keys import UnknownKeyError
from thumbs.service.requests import Body, Int64, Metadata, owner_of, peek
from thumbs.service.state import route
from thumbs.service.submissions import ModelOperations, Numbered, Optimizer, encode_json, unknown_key


class _Adam(Body, types.AdamParams):
    """As the SDK's."""


class _OptimStep(Numbered):
    adam_params: _Adam = _Adam()
    optimizer_params: Optimizer = Optimizer()


class _Save(Numbered):
    harmless = ("kind", "sampling_session_seq_id")

    path: str | None = None
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: Metadata | None = None
    age_encryption_recipients: list[str] | None = None


class _Ephemeral(Numbered):
    """What of it can be kept of a sampler that has no name is its number; it ends with its session in any case."""

    harmless = ("kind", "ttl_seconds", "user_metadata")

    path: str | None = None
    sampling_session_seq_id: Int64 | None = None


class TrainingRoutes(ModelOperations):
    """What a TrainingClient calls."""

    @route("POST", "/forward_backward", "/forward")
    async def forward_backward(self, request: Request) -> Response:
        """One pass over a chunk of data, with gradients unless the body says otherwise."""
        raw = await request.body()
        content = request.headers.get("content-type", ""), request.headers.get("content-encoding", "")
        numbered, start, unknown = await self._work(self._read_pass, raw, *content)
        return await self._accept(
            request, "forward_backward", numbered, raw, start, wire.encode_result, unknown=unknown
        )

    @route("POST", "/optim_step")
    async def optim_step(self, request: Request) -> Response:
        """Applies the gradients and clears them."""

        def start(body: _OptimStep) -> Future[Any]:
            return self._backend.optim_step(body.model_id, body.seq_id, body.adam_params)

        return await self._submit(
            request, "optim_step", _OptimStep, start, lambda result: {"metrics": dict(result.metrics or {})}
        )

    @route("POST", "/save_weights")
    async def save_weights(self, request: Request) -> Response:
        """A checkpoint to train on from: weights and optimizer."""
        return await self._save(request, "save_weights", "weights")

    @route("POST", "/save_weights_external")
    async def save_weights_external(self, request: Request) -> Response:
        """A checkpoint for download."""
        return await self._save(request, "save_weights_external", "external_weights")

    @route("POST", "/save_weights_for_sampler")
    async def save_weights_for_sampler(self, request: Request) -> Response:
        """A checkpoint to sample from; without a name, a sampler that lives as long as its session."""
        raw = await request.body()
        body = peek(_Ephemeral, raw)
        if body.path is not None or body.sampling_session_seq_id is None:
            return await self._save(request, "save_weights_for_sampler", "sampler_weights")
        run = await self._record(self._store.run, body.model_id, owner_of(request))
        sampler_id = f"{run.session_id}:sample:{body.sampling_session_seq_id}"

        def start() -> Future[Any]:
            self._store.add_sampler(sampler_id, run.session_id, run.owner, run.base_model)
            return self._backend.snapshot(body.model_id, body.seq_id, sampler_id)

        kind = "save_weights_for_sampler"
        encode = encode_json(lambda _: {"sampling_session_id": sampler_id, "type": kind})
        # Where the answer was lost, the SDKs send the same operation again under another name for the sampler.
        same = body.model_dump_json(exclude={"sampling_session_seq_id"}).encode()
        return await self._accept(request, kind, body, same, start, encode, unknown=unknown_key(_Ephemeral, raw))

    async def _save(self, request: Request, operation: str, kind: str) -> Response:
        def start(body: _Save) -> Future[Any]:
            if body.age_encryption_recipients:
                raise ConfigError("encrypted checkpoints are not served; leave age_encryption_recipients out")
            name = body.path if body.path is not None else f"step-{body.seq_id}"
            options = body.model_dump(include={"overwrite", "ttl_seconds", "user_metadata"})
            return self._backend.save(body.model_id, body.seq_id, kind, name, **options)

        return await self._submit(request, operation, _Save, start, lambda path: {"path": path, "type": operation})

    def _read_pass(
        self, raw: bytes, kind: str, encoding: str
    ) -> tuple[Numbered, Callable[[], Future[Any]], UnknownKeyError | None]:
        """Model and number of a pass, what starts it, and the key it has too many; raises WireError if not even the
        model can be read.
        """
        try:
            body = wire.decode_forward_backward(raw, kind, encoding)
        except wire.WireError as error:
            if not error.model_id:
                raise
            unknown = UnknownKeyError(str(error)) if error.is_unknown_key else None
            return Numbered(model_id=error.model_id, seq_id=error.seq_id), partial(_fail, error), unknown
        start = partial(
            self._backend.forward_backward,
            body.model_id,
            body.seq_id,
            body.data,
            body.loss_fn,
            body.loss_fn_config,
            forward_only=body.forward_only,
        )
        return Numbered(model_id=body.model_id, seq_id=body.seq_id), start, None


def _fail(error: Exception) -> Future[Any]:
    raise error
