"""The folders of checkpoints: whole ones apart from those on their way in or out.

store/
├── checkpoints/<id>/   whole; counts once a row of the store names it
└── partial/<id>/       being written or being deleted; nothing reads it

No name that a client chose reaches the file system: an id is random.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from thumbs.errors import CheckpointError, ModelError
from thumbs.tracking.files import sync

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(file: Path, how: int) -> Iterator[None]:
    """Hold a `flock` on `file`; the system lets go of it when the process ends or is killed."""
    with file.open("a") as handle:
        fcntl.flock(handle, how)
        yield


class CheckpointFolders:
    """Makes, moves and deletes the folders; what a row names is for the store to know."""

    def __init__(self, root: Path) -> None:
        self._whole, self._partial = root / "checkpoints", root / "partial"
        self._lock = root / ".writing"
        for folder in (self._whole, self._partial):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, checkpoint_id: str) -> Path:
        """Where the whole checkpoint is."""
        return self._whole / checkpoint_id

    @contextlib.contextmanager
    def new(self) -> Iterator[Path]:
        """An empty partial folder, gone afterwards unless it was placed; no sweep happens meanwhile."""
        with locked(self._lock, fcntl.LOCK_SH):
            folder = self._partial / uuid.uuid4().hex
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def place(self, partial: Path) -> None:
        """Put a partial folder among the whole ones, first every byte of it on the disk, then the move."""
        for folder, _, files in os.walk(partial):
            for file in files:
                sync(Path(folder, file))
            sync(Path(folder))
        partial.rename(self.path(partial.name))
        sync(self._whole)

    def remove(self, checkpoint_id: str) -> None:
        """Delete a whole folder that no row names any more; one that is gone is not an error."""
        doomed = self._partial / checkpoint_id
        with contextlib.suppress(FileNotFoundError):
            self.path(checkpoint_id).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def sweep(self, named: Callable[[], set[str]]) -> None:
        """Delete what a crash left: partial folders, and whole ones that are not `named` by a row.

        While a process writes a checkpoint nothing is deleted: its folder looks like a leftover.
        """
        with contextlib.suppress(BlockingIOError), locked(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in self._partial.iterdir():
                shutil.rmtree(folder, ignore_errors=True)
            kept = named()
            for folder in self._whole.iterdir():
                if folder.name not in kept:
                    self.remove(folder.name)


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Errors of a checkpoint name its path: they speak of folders, which are none of the client's business."""
    try:
        yield
    except ModelError as error:  # it speaks of tensors
        raise CheckpointError(f"{path}: {error}") from None
    except CheckpointError as error:
        log.warning("%s: %s", path, error)
        raise CheckpointError(f"{path} cannot be read; it is damaged or incomplete") from None


@contextlib.contextmanager
def writable(path: str, folder: Path) -> Iterator[None]:
    """The same for writing."""
    try:
        yield
    except (CheckpointError, OSError) as error:
        log.warning("%s: %s", path, error)
        free = shutil.disk_usage(folder.parent).free / 2**30
        raise CheckpointError(
            f"{path} could not be written; the server's disk has {free:.1f} GiB free, and what was saved before stays"
        ) from None
