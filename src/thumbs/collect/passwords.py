"""Passwords, kept as Argon2id hashes (RFC 9106) that say with which parameters they were made."""

from __future__ import annotations

import logging

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from thumbs.collect.errors import CollectError

log = logging.getLogger(__name__)

SHORTEST, LONGEST = 10, 200
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""19 MiB and some hundredths of a second: the least that OWASP's Password Storage Cheat Sheet asks for."""
_NOBODY = f"$argon2id$v=19$m={HASHER.memory_cost},t={HASHER.time_cost},p=1${'A' * 22}${'A' * 43}"
"""What is compared if there is no hash, so that it takes as long; no password has it."""


def hash_password(password: str) -> str:
    """The hash of a password; raises CollectError if it is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise CollectError(f"a password has {SHORTEST} to {LONGEST} characters; this one has {len(password)}")
    return HASHER.hash(_bytes(password))


def is_password(password: str, kept: str | None) -> bool:
    """Whether `kept` is the hash of the password; with None it is not, which takes as long to say."""
    try:
        return HASHER.verify(kept or _NOBODY, _bytes(password[:LONGEST])) and len(password) <= LONGEST
    except VerificationError:
        return False
    except InvalidHashError:
        log.warning("a password was kept by an unreleased thumbs; set it anew: thumbs collect account password NAME")
        return False


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "replace")
