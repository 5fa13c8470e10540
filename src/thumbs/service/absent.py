"""What the SDKs can ask for and this server does not have: each a refusal that says so, none that clients repeat."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thumbs.service.state import Routes, route

_WORDS = {
    "/create_custom_loss": "custom losses run in the client here: use forward_backward_custom",
    "/join_sampling_session": "sampling sessions are not joined here: copies of a client number their samples apart",
    "/retrieve_futures": "results are retrieved one by one here, at /retrieve_future",
    "/audit": "this server keeps no audit log",
    "/billing/{rest:path}": "this server bills nothing; GET /checkpoints tells what is stored",
    "/sessions/{session_id}/project": "this server has no projects besides the name that a session is created with",
    "/sessions/{session_id}/trace_export": "this server records no traces; GET /metrics tells how it does",
}
_UNTYPED = "/training_runs/{run_id}/checkpoints/{name}"
_METHODS = "GET|POST|PUT|DELETE"


class AbsentRoutes(Routes):
    """Routes that refuse."""

    @route(_METHODS, *_WORDS)
    async def refuse(self, request: Request) -> Response:
        """Raises HTTPException 404 with what there is instead."""
        raise HTTPException(404, _WORDS[request.scope["route"].path])

    @route(_METHODS, _UNTYPED, f"{_UNTYPED}/archive")
    async def untyped(self, request: Request) -> Response:
        """Raises HTTPException 400: a run's checkpoints of two kinds may have one name."""
        name = request.path_params["name"]
        raise HTTPException(
            400, f"checkpoint {name!r}: say of which kind, as in weights/{name} or sampler_weights/{name}"
        )
