"""Copies of checkpoints: the files are shared with the original, and outlive it."""

from __future__ import annotations

import os
import shutil
from functools import partial

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from thumbs.errors import DataError
from thumbs.service.promises import PromisedOperation
from thumbs.service.requests import Body, Int64, owner_of, parse
from thumbs.service.state import Routes, route
from thumbs.service.submissions import encode_json


class _Copy(Body):
    source_path: str
    session_id: str | None = None
    model_seq_id: Int64 | None = None
    destination_project_id: str | None = None
    ttl_seconds: int | None = None


class CopyRoutes(Routes):
    """What copies a checkpoint that the caller may read into a run of the caller's."""

    @route("POST", "/copy_weights")
    async def copy_weights(self, request: Request) -> Response:
        """The path of the copy, in a new run that cannot be trained on; a repeated request makes no second one."""
        raw, owner = await request.body(), owner_of(request)
        body = parse(_Copy, raw)
        if body.destination_project_id is None and (body.session_id is None or body.model_seq_id is None):
            raise DataError("name a destination_project_id, or a session_id and its model_seq_id")
        if body.session_id is not None:
            await self._service.live_session(body.session_id, owner)
        await self._record(self._store.checkpoints.find, body.source_path, owner)  # an unknown one is a 404
        repeated = request.headers.get("x-idempotency-key")
        key = None if repeated is None else (f"copies of {owner}: {repeated}", 0)
        start = partial(self._copy, body, owner)
        encode = encode_json(lambda path: {"tinker_path": path})
        operation = PromisedOperation("copy_weights", owner, body.session_id, key, raw, start, encode)
        promise = await self._service.promises.submit(operation)
        while (outcome := await self._service.promises.wait(promise, owner)) is None:
            pass
        if outcome.error is not None:
            raise HTTPException(400, outcome.error)
        return Response(outcome.result, media_type=outcome.content_type)

    def _copy(self, body: _Copy, owner: str) -> str:
        source = self._store.checkpoints.find(body.source_path, owner)
        session_id = body.session_id or self._store.add_session(
            owner, tags=("copy",), project_id=body.destination_project_id
        )
        run_id = f"{session_id}:train:{body.model_seq_id or 0}"
        run = self._store.run(source.run_id)
        self._store.add_run(run_id, session_id, owner, run.base_model, run.lora, run.user_metadata)
        options = {"ttl_seconds": body.ttl_seconds, "user_metadata": source.user_metadata}
        with self._store.checkpoints.writing(run_id, source.kind, source.name, **options) as folder:
            # Nobody writes into a checkpoint's files, so that two checkpoints can have the same ones.
            shutil.copytree(source.folder, folder, copy_function=os.link, dirs_exist_ok=True)
        if body.session_id is None:
            self._store.finish_session(session_id, "success")
        return f"tinker://{run_id}/{source.kind}/{source.name}"
