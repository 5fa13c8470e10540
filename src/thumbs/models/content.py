"""What a file or a model folder holds, as a number: whatever is derived from it is kept under that number."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from thumbs.models.checkpoint_files import weight_files

_Identity = tuple[str, int, int, int, int, int]

_RACY_NS = 2_000_000_000
"""Younger than that, a file may change again without another time stamp, so its digest is not remembered."""

_SUFFIXES = (".json", ".jinja", ".txt", ".model")

_remembered: dict[_Identity, str] = {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; read again only when the file's inode, size or times have changed."""
    state = path.stat()
    identity = (str(path), state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if identity not in _remembered:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) < _RACY_NS:
            return digest
        _remembered[identity] = digest
    return _remembered[identity]


def model_digest(folder: Path) -> str:
    """SHA-256 over the weights that are read of a model folder, its config, its tokenizer and its chat template."""
    return digest_of([*weight_files(folder), *settings_files(folder)])


def digest_of(files: list[Path]) -> str:
    """SHA-256 over the names and the contents of files, in hex; their order and their folder do not matter."""
    lines = sorted(f"{path.name} {file_digest(path)}" for path in files)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def settings_files(folder: Path) -> list[Path]:
    """The files of a model folder that hold no weights: config, tokenizer, chat template."""
    return sorted(file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file())
