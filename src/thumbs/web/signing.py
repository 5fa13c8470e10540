"""What a server signs, and the secret that it signs with."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt

_ALGORITHM = "HS256"
_LONGEST = 4096
"""Characters of a token that is read: ours have a few hundred."""


class Signer:
    """Signs claims as JSON Web Tokens (RFC 7519) with HMAC-SHA256; `exp` among them says when they end, Unix seconds.

    A token is good for its purpose alone, so that a link is not a credential.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, purpose: str, claims: Mapping[str, Any]) -> str:
        """A token with the claims, of characters that are safe in a URL."""
        return jwt.encode({**claims, "aud": purpose}, self._key, _ALGORITHM)

    def read(self, purpose: str, token: str) -> dict[str, Any] | None:
        """The claims of a token that is ours, for that purpose, and has not ended; else None."""
        if len(token) > _LONGEST:
            return None
        try:
            return jwt.decode(token, self._key, [_ALGORITHM], audience=purpose)
        except (jwt.InvalidTokenError, RecursionError, UnicodeError):  # deep JSON; half a character
            return None


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
