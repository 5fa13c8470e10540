"""Training runs and checkpoints, to list and to look after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients.listings import checkpoint_of, training_run_of
from thumbs.clients.rest_client import RestClient
from thumbs.clients.tables import CheckpointRecord
from thumbs.errors import DataError
from thumbs.service.requests import Body, NoFields, answer, owner_of, page, parse, read, version
from thumbs.service.state import Routes, route

_EXTERNAL_SINCE = (0, 25)
_CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class _Ttl(Body):
    ttl_seconds: int | None = None


class RestRoutes(Routes):
    """What a RestClient and the SDK's command line call."""

    @route("GET", "/training_runs")
    async def runs(self, request: Request) -> Response:
        """The caller's training runs, newest first."""
        listed = RestClient(self._backend, owner_of(request)).list_training_runs
        return answer(_plain((await self._service.threads.record(listed, *page(request))).result()))

    @route("GET", "/training_runs/{run_id}")
    async def run(self, request: Request) -> Response:
        """One training run; somebody else's where they published a checkpoint of it."""
        run_id, owner = request.path_params["run_id"], owner_of(request)

        def find() -> dict[str, Any] | None:
            record = self._store.run(run_id)
            if record is None:
                return None
            mine = record.owner == owner
            if not mine and not any(checkpoint.public for checkpoint in self._store.checkpoints.of_run(run_id)):
                return None
            return _plain(training_run_of(self._store, record, only_public=not mine))

        found = await self._service.threads.record(find)
        if found is None:
            raise HTTPException(404, f"there is no training run {run_id!r} of yours")
        return answer(found)

    @route("GET", "/training_runs/{run_id}/checkpoints")
    async def checkpoints_of_run(self, request: Request) -> Response:
        """All checkpoints of one of the caller's runs."""
        run = await self._service.run(request.path_params["run_id"], owner_of(request))
        records = await self._service.threads.record(self._store.checkpoints.of_run, run.id)
        return answer({"checkpoints": _listed(request, records)})

    @route("GET", "/checkpoints")
    async def checkpoints(self, request: Request) -> Response:
        """The caller's checkpoints, newest first."""
        limit, offset = page(request, default=100)
        records, total = await self._service.threads.record(
            self._store.checkpoints.page, owner_of(request), limit, offset
        )
        cursor = {"offset": offset, "limit": limit, "total_count": total}
        return answer({"checkpoints": _listed(request, records), "cursor": cursor})

    @route("DELETE", _CHECKPOINT)
    async def delete(self, request: Request) -> Response:
        """Deletes a checkpoint; samplers that read it before keep what they read."""
        return await self._change(request, self._store.checkpoints.delete)

    @route("POST|DELETE", f"{_CHECKPOINT}/publish")
    async def publish(self, request: Request) -> Response:
        """POST lets every caller read a checkpoint, DELETE takes that back; doing it twice is not an error."""
        await read(request, NoFields)
        return await self._change(request, self._store.checkpoints.publish, request.method == "POST")

    @route("PUT", f"{_CHECKPOINT}/ttl")
    async def ttl(self, request: Request) -> Response:
        """Sets how long a checkpoint is kept, seconds from now; null is for ever."""
        raw = await request.body()
        if b"ttl_seconds" not in raw:  # null is a value here, and nothing is none
            raise DataError("say ttl_seconds, a number, or null for a checkpoint that stays")
        return await self._change(request, self._store.checkpoints.set_ttl, parse(_Ttl, raw).ttl_seconds)

    async def _change(self, request: Request, change: Callable[..., None], *args: Any) -> Response:
        record = await self._service.checkpoint(path_of(request), owner_of(request), own=True)
        await self._service.threads.record(change, record.path, *args)
        return answer({})


def path_of(request: Request) -> str:
    """The address of the checkpoint that the URL names."""
    parts = request.path_params
    return f"tinker://{parts['run_id']}/{parts['kind']}/{parts['name']}"


def _listed(request: Request, records: list[CheckpointRecord]) -> list[dict[str, Any]]:
    """Checkpoints without those of a type that would be an error in the caller's SDK."""
    old = version(request.headers.get("x-stainless-package-version", "")) < _EXTERNAL_SINCE
    return [_plain(checkpoint_of(record)) for record in records if not (old and record.kind == "external_weights")]


def _plain(record: BaseModel) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude_none=True)
