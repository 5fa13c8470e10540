"""What a model folder holds, as a number: whatever is derived from it is kept under that number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from thumbs.models.checkpoint_files import weight_files
from thumbs.tracking.digests import DigestCache

_SUFFIXES = (".json", ".jinja", ".txt", ".model")

_cache = DigestCache()


def model_digest(folder: Path) -> str:
    """SHA-256 over the weights that are read of a model folder, its config, its tokenizer and its chat template."""
    return digest_of([*weight_files(folder), *settings_files(folder)])


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 over the names and the contents of files, in hex; their order and their folder do not matter."""
    files = list(files)
    digests = zip(files, _cache.digests(files), strict=True)
    return hashlib.sha256("\n".join(sorted(f"{file.name} {digest}" for file, digest in digests)).encode()).hexdigest()


def settings_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold no weights: config, tokenizer, chat template."""
    return sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
