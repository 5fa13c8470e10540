"""Checkpoints that come as archives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from thumbs.engine.checkpoints import OPTIMIZER
from thumbs.errors import DataError
from thumbs.models.base_identity import public_name
from thumbs.service.adapters import PEFT_FILES, base_of, keep, read_adapter
from thumbs.service.archives import unpack
from thumbs.service.requests import answer, owner_of
from thumbs.service.state import Service


class UploadRoutes:
    """Takes an adapter in PEFT's layout, and the optimizer's state where the archive has one of ours."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[Route]:
        """The routes, below /api/v1."""
        return [Route("/checkpoints/upload", self.upload, methods=["POST"])]

    async def upload(self, request: Request) -> Response:
        """The path of the checkpoint that the archive in the form's `file` becomes."""
        async with request.form(max_files=1, max_fields=16) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise DataError("send the archive (.tar.gz) as the field `file` of a multipart form")
            path, ignored = await self._service.threads.work(self._keep, file.file, owner_of(request))
        return answer({"path": path, "checkpoint_id": path, "ignored_files": ignored})

    def _keep(self, file: IO[bytes], owner: str) -> tuple[str, list[str]]:
        """The path, and the files of the archive that were not looked at."""
        backend = self._service.backend
        with tempfile.TemporaryDirectory(prefix="thumbs-upload-") as folder:
            names = unpack(file, Path(folder), self._service.settings.upload_bytes)
            base_model = self._base_model(base_of(Path(folder)))
            adapter = read_adapter(Path(folder), backend.bases[base_model].shape)
        path = keep(backend, owner, base_model, adapter, "weights", "uploaded")
        return path, sorted(names - {*PEFT_FILES, OPTIMIZER})

    def _base_model(self, name: str) -> str:
        """The served model that an adapter is for: the one of that name, or that is loaded by it, or the only one."""
        bases = self._service.backend.bases
        found = next((served for served in bases.names if name in _names(served, bases[served].config.name)), None)
        if found is None and len(bases.names) == 1:
            return bases.names[0]
        if found is None:
            raise DataError(f"the adapter is for the base model {name!r}; served are {', '.join(bases.names)}")
        return found


def _names(served: str, loaded: str) -> tuple[str | None, ...]:
    """What an adapter's config may call a base: as it is offered, as it is loaded, as everybody else calls it."""
    return served, loaded, public_name(loaded)
