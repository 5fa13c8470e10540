"""The secret with which a server signs."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def load_key(path: Path) -> bytes:
    """32 bytes in the file `path`, made when missing, readable by its owner alone.

    It outlives a restart, so that what was signed before still holds after.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another server, started at the same time, may have been first
            path.hardlink_to(temporary)
        temporary.unlink()
    return path.read_bytes()
