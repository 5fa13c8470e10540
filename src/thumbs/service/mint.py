"""MinT's own two operations."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients.reverse_kl import ReverseKlDatum, ReverseKlOutput
from thumbs.errors import DataError
from thumbs.service import wire
from thumbs.service.adapters import keep, mix, read_adapter
from thumbs.service.promises import PromisedOperation
from thumbs.service.requests import Body, answer, owner_of, parse
from thumbs.service.state import route
from thumbs.service.submissions import ModelOperations, Numbered, encode_json

_MOST_SOURCES = 16
_INTERPOLATE = "mint_interpolate_checkpoints"
_REVERSE_KL = "mint_forward_backward_reverse_kl"


class _Interpolate(Body):
    source_paths: list[str] = Field(min_length=1, max_length=_MOST_SOURCES)
    coefficients: list[float]
    output_path: str | None = None
    output_checkpoint_type: Literal["sampler"] = "sampler"


class _ReverseKlData(Body):
    student_input: Any = None
    reference_input: Any = None
    target_tokens: Any = None
    weights: Any = None


class _ReverseKl(Numbered):
    reference_model_path: str
    data: list[_ReverseKlData] = Field(max_length=wire.MAX_DATUMS)
    temperature: float = 1.0


class MintRoutes(ModelOperations):
    """What `mint` calls besides the common protocol."""

    @route("POST", "/mint/checkpoints/interpolate")
    async def interpolate(self, request: Request) -> Response:
        """A sum of checkpoints, each with its coefficient, as a checkpoint to sample from."""
        raw = await request.body()
        body = parse(_Interpolate, raw)
        described = {
            "checkpoint_type": "sampler",
            "source_paths": body.source_paths,
            "coefficients": body.coefficients,
            "has_rank_shards": False,
            "type": _INTERPOLATE,
        }
        encode = encode_json(lambda path: {"path": path, **described})
        start = partial(self._interpolate, body, owner_of(request))
        operation = PromisedOperation("interpolate", owner_of(request), None, None, raw, start, encode)
        return answer({"request_id": await self._service.promises.submit(operation)})

    @route("POST", "/mint/forward_backward_reverse_kl")
    async def reverse_kl(self, request: Request) -> Response:
        """A pass with the divergence from a reference checkpoint as loss; the SDK gives it no number."""

        def start(body: _ReverseKl) -> Future[Any]:
            path = self._store.checkpoints.find(body.reference_model_path, owner_of(request)).path
            data = [_reverse_kl_datum(index, datum) for index, datum in enumerate(body.data)]
            return self._backend.forward_backward_reverse_kl(body.model_id, body.seq_id, data, path, body.temperature)

        return await self._submit(request, "forward_backward_reverse_kl", _ReverseKl, start, _reverse_kl_json)

    def _interpolate(self, body: _Interpolate, owner: str) -> str:
        backend = self._backend
        if len(body.source_paths) != len(body.coefficients):
            raise DataError(f"got {len(body.source_paths)} source_paths and {len(body.coefficients)} coefficients")
        records = [self._store.checkpoints.find(path, owner) for path in body.source_paths]
        bases = {record.base_model for record in records}
        if len(bases) != 1:
            raise DataError(f"the checkpoints are of different base models: {', '.join(sorted(bases))}")
        base_model = bases.pop()
        shape = backend.bases[base_model].shape
        adapters = []
        for path, record in zip(body.source_paths, records, strict=True):
            try:
                adapters.append(read_adapter(record.folder, shape))
            except DataError as error:
                raise DataError(f"{path}: {error}") from None
        mixed = mix(adapters, body.coefficients)
        name = (body.output_path or "interpolated").rstrip("/").rpartition("/")[2]
        return keep(backend, owner, base_model, mixed, "sampler_weights", name)


def _reverse_kl_datum(index: int, datum: _ReverseKlData) -> ReverseKlDatum:
    try:
        return ReverseKlDatum(
            wire.decode_model_input(datum.student_input),
            wire.decode_model_input(datum.reference_input),
            wire.decode_tensor(datum.target_tokens),
            wire.decode_tensor(datum.weights),
        )
    except DataError as error:
        raise DataError(f"datum {index}: {error}") from None


def _reverse_kl_json(output: ReverseKlOutput) -> dict[str, Any]:
    losses = [{"loss": {"data": [loss], "shape": [1], "dtype": "float32"}} for loss in output.losses]
    return {"outputs": losses, "metrics": output.metrics, "type": _REVERSE_KL}
