"""Tokens, sessions and invitations: random texts that are shown once, of which only the digest is kept."""

from __future__ import annotations

import hashlib
import secrets


def new_secret(prefix: str = "") -> str:
    """A text of 256 random bits that is safe in a URL, after a prefix that says what it opens."""
    return prefix + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """The SHA-256 of a secret in hexadecimal, which is what a database holds of it."""
    # A fast hash without salt is enough: a secret is 256 random bits, so there is no guess to try against the digest.
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
