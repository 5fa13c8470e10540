"""Checkpoints that come as archives.

Python's own reader of tar archives keeps a header of any length in memory and knows links, devices and owners. Here
plain files count, by the last part of their names, and what is unpacked is bounded.
"""

from __future__ import annotations

import gzip
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from thumbs.engine.checkpoints import OPTIMIZER
from thumbs.errors import DataError
from thumbs.models.base_identity import public_name
from thumbs.service.adapters import PEFT_FILES, base_of, keep, read_adapter
from thumbs.service.requests import answer, owner_of
from thumbs.service.state import Routes, route

_BLOCK = 512
_PIECE = 1 << 20
_MOST_ENTRIES = 1000
_ENDINGS = (".json", ".safetensors")


class UploadRoutes(Routes):
    """Takes an adapter in PEFT's layout, and the optimizer's state where the archive has one of ours."""

    @route("POST", "/checkpoints/upload")
    async def upload(self, request: Request) -> Response:
        """The path of the checkpoint that the archive in the form's `file` becomes."""
        async with request.form(max_files=1, max_fields=16) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise DataError("send the archive (.tar.gz) as the field `file` of a multipart form")
            path, ignored = await self._work(self._keep, file.file, owner_of(request))
        return answer({"path": path, "checkpoint_id": path, "ignored_files": ignored})

    def _keep(self, file: IO[bytes], owner: str) -> tuple[str, list[str]]:
        """The path, and the files of the archive that were not looked at."""
        backend = self._backend
        with tempfile.TemporaryDirectory(prefix="thumbs-upload-") as folder:
            names = unpack(file, Path(folder), self._service.settings.upload_bytes)
            base_model = self._base_model(base_of(Path(folder)))
            adapter = read_adapter(Path(folder), backend.bases[base_model].shape)
        path = keep(backend, owner, base_model, adapter, "weights", "uploaded")
        return path, sorted(names - {*PEFT_FILES, OPTIMIZER})

    def _base_model(self, name: str) -> str:
        """The served model that an adapter is for: the one of that name, or that is loaded by it, or the only one."""
        bases = self._backend.bases
        found = next((served for served in bases.names if name in _names(served, bases[served].config.name)), None)
        if found is None and len(bases.names) == 1:
            return bases.names[0]
        if found is None:
            raise DataError(f"the adapter is for the base model {name!r}; served are {', '.join(bases.names)}")
        return found


def _names(served: str, loaded: str) -> tuple[str | None, ...]:
    """What an adapter's config may call a base: as it is offered, as it is loaded, as everybody else calls it."""
    return served, loaded, public_name(loaded)


def contents(file: IO[bytes], most_bytes: int) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Name and content, in pieces, of each file in a tar or tar.gz archive that may be part of a checkpoint.

    Raises DataError if it is no such archive, is cut off, is longer than `most_bytes` unpacked, or names a file
    twice.
    """
    stream, seen = _Stream(file, most_bytes), set[str]()
    for _ in range(_MOST_ENTRIES):
        header = stream.read(_BLOCK)
        if not header.strip(b"\0"):
            return
        try:
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise DataError(f"the file is not a tar archive: {error}") from None
        pieces = stream.pieces(max(entry.size, 0))
        name = PurePosixPath(entry.name).name
        if entry.isreg() and name.endswith(_ENDINGS) and not name.startswith("."):
            if name in seen:
                raise DataError(f"the archive holds two files called {name!a}")
            seen.add(name)
            yield name, pieces
        for _ in pieces:
            pass  # what nobody read
        stream.read(-entry.size % _BLOCK)
    raise DataError(f"the archive holds more than {_MOST_ENTRIES} entries")


def unpack(file: IO[bytes], folder: Path, most_bytes: int) -> set[str]:
    """Writes those files into `folder`; returns their names. Raises as `contents`."""
    names = set()
    for name, pieces in contents(file, most_bytes):
        with (folder / name).open("xb") as target:
            target.writelines(pieces)
        names.add(name)
    return names


class _Stream:
    """Bytes of a file from its beginning, unpacked, up to a bound."""

    def __init__(self, file: IO[bytes], most_bytes: int) -> None:
        file.seek(0)
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        self._source = cast(IO[bytes], gzip.GzipFile(fileobj=file, mode="rb")) if packed else file
        self._most_bytes = self._left = most_bytes

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        self._left -= size
        if self._left < 0:
            raise DataError(f"the archive is longer than {self._most_bytes} bytes unpacked")
        try:
            data = self._source.read(size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"the archive cannot be read: {error}") from None
        if len(data) < size:
            raise DataError("the archive is cut off")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes, a megabyte at a time."""
        while size > 0:
            piece = self.read(min(size, _PIECE))
            size -= len(piece)
            yield piece
