"""MinT's own two operations."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.errors import ConfigError, DataError
from thumbs.service.adapters import keep, mix, read_adapter
from thumbs.service.promises import Operation
from thumbs.service.requests import Body, answer, owner_of, parse
from thumbs.service.state import Service
from thumbs.service.submissions import Numbered, encode_json, submit

_MOST_SOURCES = 16
_INTERPOLATE = "mint_interpolate_checkpoints"


class _Interpolate(Body):
    source_paths: list[str] = Field(min_length=1, max_length=_MOST_SOURCES)
    coefficients: list[float]
    output_path: str | None = None
    output_checkpoint_type: Literal["sampler"] = "sampler"


class MintRoutes:
    """What `mint` calls beside the common protocol. The second operation is refused, by a promise that says so."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, below /api/v1."""
        return [
            Route("/mint/checkpoints/interpolate", self.interpolate, methods=["POST"]),
            Route("/mint/forward_backward_reverse_kl", self.reverse_kl, methods=["POST"]),
        ]

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
        operation = Operation("interpolate", owner_of(request), None, None, raw, start, encode)
        return answer({"request_id": await self._service.promises.submit(operation)})

    async def reverse_kl(self, request: Request) -> Response:
        """A pass with the divergence from a reference checkpoint as loss; it has no number."""
        raw = await request.body()
        body = parse(Numbered, raw)
        encode = encode_json(lambda _: {})
        return await submit(self._service, request, "forward_backward_reverse_kl", body, raw, _refuse, encode)

    def _interpolate(self, body: _Interpolate, owner: str) -> Future[str]:
        backend = self._service.backend
        if len(body.source_paths) != len(body.coefficients):
            raise DataError(f"got {len(body.source_paths)} source_paths and {len(body.coefficients)} coefficients")
        records = [self._service.find_checkpoint(path, owner) for path in body.source_paths]
        bases = {run.base_model for record in records if (run := backend.store.run(record.run_id))}
        if len(bases) != 1:
            raise DataError(f"the checkpoints are of different base models: {', '.join(sorted(bases))}")
        mixed = mix([read_adapter(record.folder) for record in records], body.coefficients)
        name = (body.output_path or "interpolated").rstrip("/").rpartition("/")[2]
        done: Future[str] = Future()
        done.set_result(keep(backend, owner, bases.pop(), mixed, "sampler_weights", name))
        return done


def _refuse() -> Future[Any]:
    raise ConfigError(
        "forward_backward_reverse_kl is not served; forward_backward with cross_entropy on the reference's probable"
        " tokens (weights of several targets a position) comes close"
    )
