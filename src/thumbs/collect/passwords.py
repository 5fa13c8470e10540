"""Passwords, kept as scrypt hashes that say with which parameters they were made."""

from __future__ import annotations

import base64
import hashlib
import secrets
from hmac import compare_digest

from thumbs.collect.errors import CollectError

SHORTEST, LONGEST = 10, 200
_N, _R, _P = 2**14, 8, 5
"""16 MiB and about a tenth of a second; OWASP's Password Storage Cheat Sheet lists the combination."""
_NOBODY = f"scrypt${_N}${_R}${_P}${'A' * 24}${'A' * 43}="
"""What is compared where there is no hash, so that it takes as long; no password has it."""


def hash_password(password: str) -> str:
    """scrypt$N$r$p$salt$hash; raises CollectError where the password is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise CollectError(f"a password has {SHORTEST} to {LONGEST} characters; this one has {len(password)}")
    salt = secrets.token_bytes(18)
    return "$".join(("scrypt", str(_N), str(_R), str(_P), _text(salt), _text(_derive(password, salt, _N, _R, _P))))


def is_password(password: str, kept: str | None) -> bool:
    """Whether `kept` is the hash of the password; with None it is not, which takes as long to say."""
    _, n, r, p, salt, expected = (kept or _NOBODY).split("$")
    derived = _derive(password[:LONGEST], base64.b64decode(salt), int(n), int(r), int(p))
    return compare_digest(derived, base64.b64decode(expected)) and len(password) <= LONGEST


def _derive(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    raw = password.encode("utf-8", "replace")
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
