"""Results: asking for what was promised, and giving a promise up."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.service.promises import LOST, Outcome
from thumbs.service.requests import Body, answer, owner_of, read
from thumbs.service.state import Service


class _Promise(Body):
    request_id: str


class RetrievalRoutes:
    """What every future of a client calls."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, below /api/v1."""
        return [
            Route("/retrieve_future", self.retrieve, methods=["POST"]),
            Route("/cancel_future", self.cancel, methods=["POST"]),
        ]

    async def retrieve(self, request: Request) -> Response:
        """The result of an operation, held open until there is one; 408, on which clients ask again, until then.

        A failed operation is a 200 with `error`: clients repeat a request that fails with another status. A sample
        that is lost is a 410, on which they draw it again.
        """
        body = await read(request, _Promise)
        try:
            outcome = await self._service.promises.wait(body.request_id, owner_of(request))
        except LookupError:
            kind = "sample" if request.headers.get("x-tinker-request-type") == "Sample" else ""
            text = "this server knows no such promise of yours, or no longer; start from the last checkpoint"
            outcome = Outcome(kind, error=text, category=LOST)
        if outcome is None:
            return answer({"type": "try_again", "request_id": body.request_id, "queue_state": "active"}, 408)
        if outcome.error is None:
            return Response(outcome.result, media_type=outcome.content_type)
        if outcome.category == LOST and outcome.kind == "sample":
            return answer({"detail": outcome.error}, 410)
        category = "server" if outcome.category == LOST else outcome.category
        return answer({"error": outcome.error, "category": category})

    async def cancel(self, request: Request) -> Response:
        """Ends an operation that nobody waits for any more."""
        body = await read(request, _Promise)
        self._service.promises.cancel(body.request_id, owner_of(request))
        return answer({})
