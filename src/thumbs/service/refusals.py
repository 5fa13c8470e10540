"""How errors are told: one sentence, in the shape that the clients of each API read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thumbs.errors import CheckpointError
from thumbs.service.openai import PREFIXES
from thumbs.service.openai_errors import RefusedError, error_body
from thumbs.service.requests import answer
from thumbs.storage import MissingError, is_away

log = logging.getLogger(__name__)

_UNKNOWN = (CheckpointError, MissingError)
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Refusals:
    """root_path: what stands before the paths of this server."""

    root_path: str = ""

    def refuse(
        self,
        path: str,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        error: Exception | None = None,
    ) -> Response:
        """The answer with that status and sentence to a request at `path`."""
        inner = path.removeprefix(self.root_path)
        if any(inner == prefix or inner.startswith(f"{prefix}/") for prefix in PREFIXES):
            return answer(error_body(detail, status, error), status, headers)
        return answer({"detail": detail}, status, headers)

    async def explain(self, request: Request, error: Exception) -> Response:
        """A refusal. Clients repeat 408, 409, 429 and 5xx, so those stand for what may pass alone."""
        path = request.scope["path"]
        if isinstance(error, HTTPException):
            return self.refuse(path, error.status_code, error.detail, error.headers)
        if isinstance(error, SQLAlchemyError):
            if not is_away(error):
                raise error
            log.error("the database does not answer: %s", error)
            await asyncio.sleep(_PAUSE_S)  # some calls are repeated without a pause
            return self.refuse(path, 503, "the server's database does not answer; try again")
        status = error.status if isinstance(error, RefusedError) else 404 if isinstance(error, _UNKNOWN) else 400
        return self.refuse(path, status, str(error), error=error)

    async def fail(self, request: Request, error: Exception) -> Response:
        """A bug of ours. It will not pass, so that its status is none that clients repeat for minutes."""
        text = f"the server failed ({type(error).__name__}); its log tells more"
        return self.refuse(request.scope["path"], 422, text)
