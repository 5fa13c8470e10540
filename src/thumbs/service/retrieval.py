"""Results: asking for what was promised, and giving a promise up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from thumbs.service.promises import LOST, Outcome
from thumbs.service.requests import Body, answer, owner_of, read
from thumbs.service.state import Routes, route
from thumbs.service.wire import JSON, PROTOBUF
from thumbs.service.wire_results import as_accepted


class _Promise(Body):
    request_id: str


class _Retrieval(_Promise):
    harmless = ("allow_metadata_only",)


class RetrievalRoutes(Routes):
    """What every future of a client calls."""

    @route("POST", "/retrieve_future")
    async def retrieve(self, request: Request) -> Response:
        """The result of an operation, held open until there is one; 408, on which clients ask again, until then.

        A failed operation is a 200 with `error`: clients repeat a request that fails with another status. A sample
        that is lost is a 410, on which they draw it again.
        """
        body = await read(request, _Retrieval)
        try:
            outcome = await self._service.promises.wait(body.request_id, owner_of(request))
        except LookupError:
            kind = "sample" if request.headers.get("x-tinker-request-type") == "Sample" else ""
            text = "this server knows no such promise of yours, or no longer; start from the last checkpoint"
            outcome = Outcome(kind, error=text, category=LOST)
        if outcome is None:
            return answer(
                {"type": "try_again", "request_id": body.request_id, **self._queue_state(body.request_id)}, 408
            )
        if outcome.error is None:
            return await self._result(outcome, request.headers.get("accept", ""))
        if outcome.category == LOST and outcome.kind == "sample":
            return answer({"detail": outcome.error}, 410)
        category = "server" if outcome.category == LOST else outcome.category
        return answer({"error": outcome.error, "category": category})

    async def _result(self, outcome: Outcome, accept: str) -> Response:
        """Results of passes and samples are kept as protobuf; who reads JSON, too, may need it."""
        result, content = outcome.result, outcome.content_type
        if content == PROTOBUF and (PROTOBUF not in accept or JSON in accept):
            result, content = await self._work(as_accepted, outcome.kind, result, accept)
        return Response(result, media_type=content)

    def _queue_state(self, request_id: str) -> dict[str, str]:
        """What a client tells its user while a result is not there: nothing, or why its turn has not come."""
        if not self._service.promises.queued(request_id):
            return {"queue_state": "active"}
        waiting = self._backend.waiting()
        operations, samples = waiting["operations"], waiting["samples"]
        reason = f"{sum(operations.values())} operations of {len(operations)} models and {samples} samples take turns"
        return {"queue_state": "paused_capacity", "queue_state_reason": reason}

    @route("POST", "/cancel_future")
    async def cancel(self, request: Request) -> Response:
        """Ends an operation that nobody waits for any more."""
        body = await read(request, _Promise)
        self._service.promises.cancel(body.request_id, owner_of(request))
        return answer({})
