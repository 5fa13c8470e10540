"""Weights to take away: one archive (SDK 0.22) or file by file (SDK 0.38), by links that hold for a while.

A link carries its own permission, because the SDKs fetch it without a key.
"""

from __future__ import annotations

import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path
from typing import IO
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from thumbs.clients.tables import CheckpointRecord
from thumbs.errors import CheckpointError
from thumbs.service.adapters import PEFT_FILES
from thumbs.service.requests import answer, owner_of
from thumbs.service.rest import path_of
from thumbs.service.state import Routes, route

_COMPLETE = "checkpoint_complete"
_LINK, _LINK_S = "link", 3600
_PIECE = 1 << 20
_ARCHIVE = "checkpoint.tar.gz"


class DownloadRoutes(Routes):
    """Links, for their owners, and what they lead to, for whoever has one."""

    @route("GET", "/training_runs/{run_id}/checkpoints/{kind}/{name}/archive")
    async def archive_link(self, request: Request) -> Response:
        """Redirects to a tar.gz with the adapter in PEFT's layout."""
        record = await self._record(self._store.checkpoints.find, path_of(request), owner_of(request))
        expires = int(time.time()) + _LINK_S
        headers = {
            "Location": self._link(request, record, _ARCHIVE, expires),
            "Expires": format_datetime(datetime.fromtimestamp(expires, UTC), usegmt=True),
        }
        return answer({"detail": "the archive is where Location says"}, 302, headers)

    @route("GET", "/training_runs/{run_id}/checkpoints/{kind}/{name}/external_weights_urls")
    async def file_links(self, request: Request) -> Response:
        """A link for each file of a checkpoint."""
        record = await self._record(self._store.checkpoints.find, path_of(request), owner_of(request))
        expires = int(time.time()) + _LINK_S
        names = await self._work(_files, record.folder)
        urls = {name: self._link(request, record, name, expires) for name in names}
        return answer({"urls": urls, "expires": datetime.fromtimestamp(expires, UTC).isoformat()})

    @route("GET", "/{run_id}/{kind}/{name}/{signature}/{file:path}", keyed=False)
    async def download(self, request: Request) -> Response:
        """One file, or the archive; 403 where the link is not ours or has ended."""
        parts = request.path_params
        claims = self._service.signer.read(_LINK, parts["signature"])
        if claims is None or claims["sub"] != f"{path_of(request)}/{parts['file']}":
            raise HTTPException(403, "this link has ended or was not given out by this server; ask for a new one")
        record = await self._record(self._store.checkpoints.get, path_of(request))
        if record is None:
            raise CheckpointError(f"there is no checkpoint {path_of(request)!r} any more")
        if parts["file"] == _ARCHIVE:
            return await self._archive(record)
        files = await self._work(_files, record.folder)
        if parts["file"] not in files:
            raise CheckpointError(f"{path_of(request)} has no file {parts['file']!r}")
        return FileResponse(files[parts["file"]], media_type="application/octet-stream")

    def _link(self, request: Request, record: CheckpointRecord, file: str, expires: int) -> str:
        signature = self._service.signer.sign(_LINK, {"sub": f"{record.path}/{file}", "exp": expires})
        place = f"{record.run_id}/{record.kind}/{record.name}/{signature}/{file}"
        return f"{request.base_url}download/{quote(place, safe='/')}"

    async def _archive(self, record: CheckpointRecord) -> Response:
        file = await self._work(_pack, record)
        size = file.seek(0, 2)
        file.seek(0)

        async def pieces() -> AsyncIterator[bytes]:
            with file:
                while piece := await self._work(file.read, _PIECE):
                    yield piece

        return StreamingResponse(pieces(), media_type="application/gzip", headers={"Content-Length": str(size)})


def _files(folder: Path) -> dict[str, Path]:
    """The regular files of a checkpoint by their name inside it."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path for path in inside}


def _pack(record: CheckpointRecord) -> IO[bytes]:
    """All files of a checkpoint in a file without a name; raises CheckpointError if no adapter is among them."""
    files = _files(record.folder)
    missing = [name for name in PEFT_FILES if name not in files]
    if missing:
        raise CheckpointError(f"{record.path} holds no adapter to download: {', '.join(missing)} is missing")
    target = tempfile.TemporaryFile()  # noqa: SIM115 (whoever sends it closes it)
    # Weights do not compress; level 1 costs the least.
    with tarfile.open(fileobj=target, mode="w:gz", compresslevel=1) as archive:
        for name, file in files.items():
            archive.add(file, name, recursive=False, filter=_anonymous)
        archive.addfile(tarfile.TarInfo(_COMPLETE), BytesIO())
    return target


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without names and ids of this machine's users."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode, entry.mtime = 0o644, int(entry.mtime)
    return entry
