"""Sessions, training runs and checkpoints, to list and to look after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from thumbs.clients import types
from thumbs.clients.futures import APIFuture
from thumbs.clients.rest_client import RestClient
from thumbs.errors import DataError
from thumbs.service.requests import Body, NoFields, answer, owner_of, page, parse, read, version
from thumbs.service.state import Routes, route

_EXTERNAL_SINCE = (0, 25)
_CHECKPOINT = "/training_runs/{run_id}/checkpoints/{kind}/{name}"


class _Ttl(Body):
    ttl_seconds: int | None = None


class _Path(Body):
    tinker_path: str


class RestRoutes(Routes):
    """What a RestClient and the SDK's command line call: each asks a RestClient of the caller."""

    @route("GET", "/training_runs")
    async def runs(self, request: Request) -> Response:
        """The caller's training runs, newest first."""
        return await self._tell(request, RestClient.list_training_runs, *page(request))

    @route("GET", "/training_runs/{run_id}")
    async def run(self, request: Request) -> Response:
        """One training run; somebody else's where they published a checkpoint of it."""
        return await self._tell(request, RestClient.get_training_run, request.path_params["run_id"])

    @route("GET", "/training_runs/{run_id}/checkpoints")
    async def checkpoints_of_run(self, request: Request) -> Response:
        """All checkpoints of one of the caller's runs."""
        return await self._tell(request, RestClient.list_checkpoints, request.path_params["run_id"])

    @route("GET", "/checkpoints")
    async def checkpoints(self, request: Request) -> Response:
        """The caller's checkpoints, newest first."""
        return await self._tell(request, RestClient.list_user_checkpoints, *page(request, default=100))

    @route("POST", "/weights_info")
    async def weights_info(self, request: Request) -> Response:
        """What a checkpoint was trained from, and how."""
        body = await read(request, _Path)
        return await self._tell(request, RestClient.get_weights_info_by_tinker_path, body.tinker_path)

    @route("GET", "/sessions")
    async def sessions(self, request: Request) -> Response:
        """The ids of the caller's sessions, newest first."""
        return await self._tell(request, RestClient.list_sessions, *page(request))

    @route("GET", "/sessions/{session_id}")
    async def session(self, request: Request) -> Response:
        """The runs and samplers of a session."""
        return await self._tell(request, RestClient.get_session, request.path_params["session_id"])

    @route("GET", "/samplers/{sampler_id}")
    async def sampler(self, request: Request) -> Response:
        """What a sampler samples from."""
        return await self._tell(request, RestClient.get_sampler, request.path_params["sampler_id"])

    @route("DELETE", _CHECKPOINT)
    async def delete(self, request: Request) -> Response:
        """Deletes a checkpoint; samplers that read it before keep what they read."""
        return await self._tell(request, RestClient.delete_checkpoint_from_tinker_path, path_of(request))

    @route("POST|DELETE", f"{_CHECKPOINT}/publish")
    async def publish(self, request: Request) -> Response:
        """POST lets every caller read a checkpoint, DELETE takes that back; doing it twice is not an error."""
        await read(request, NoFields)
        published, taken_back = (
            RestClient.publish_checkpoint_from_tinker_path,
            RestClient.unpublish_checkpoint_from_tinker_path,
        )
        return await self._tell(request, published if request.method == "POST" else taken_back, path_of(request))

    @route("PUT", f"{_CHECKPOINT}/ttl")
    async def ttl(self, request: Request) -> Response:
        """Sets how long a checkpoint is kept, seconds from now; null is for ever."""
        raw = await request.body()
        if b"ttl_seconds" not in raw:  # null is a value here, and nothing is none
            raise DataError("say ttl_seconds, a number, or null for a checkpoint that stays")
        change = RestClient.set_checkpoint_ttl_from_tinker_path
        return await self._tell(request, change, path_of(request), parse(_Ttl, raw).ttl_seconds)

    async def _tell(self, request: Request, ask: Callable[..., APIFuture[Any]], *args: Any) -> Response:
        asked = await self._record(ask, RestClient(self._backend, owner_of(request)), *args)
        found = asked.result()
        if isinstance(found, types.CheckpointsListResponse):
            found = _as_known(request, found)
        return answer({} if found is None else found.model_dump(mode="json", exclude_none=True))


def path_of(request: Request) -> str:
    """The address of the checkpoint that the URL names."""
    parts = request.path_params
    return f"tinker://{parts['run_id']}/{parts['kind']}/{parts['name']}"


def _as_known(request: Request, listed: types.CheckpointsListResponse) -> types.CheckpointsListResponse:
    """Without checkpoints of a type that would be an error in the caller's SDK."""
    if version(request.headers.get("x-stainless-package-version", "")) >= _EXTERNAL_SINCE:
        return listed
    known = [checkpoint for checkpoint in listed.checkpoints if checkpoint.checkpoint_type != "external"]
    return listed.model_copy(update={"checkpoints": known})
