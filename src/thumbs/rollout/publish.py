"""What an engine hands to its samplers: the weights of a model at one moment, here or as a folder for others."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeAlias

from filelock import FileLock, Timeout

from thumbs.config.engine import RolloutConfig
from thumbs.config.model import ModelConfig
from thumbs.config.named import Registry
from thumbs.errors import CheckpointError
from thumbs.models.base import Trunk
from thumbs.rollout.sampler import DecodeText, Sampler
from thumbs.workers.base import Crew

log = logging.getLogger(__name__)

PREFIX, LOCK = "thumbs-weights-", ".lock"


class Published(Protocol):
    """Weights to sample from. They are those of the moment at which `trunk` or `write` is called, so call it at once.

    seed: of the base, which a byte model is made of. version: optimizer steps that the weights took.
    context: the longest sequence, tokens. decode_text: text of tokens, which stop strings need; None if nothing
    decodes. shared: one of many adapters on a base that is held once for all of them, or without `model.lora` this base
    itself, of which nothing is written. client: with whom others take turns.
    """

    model: ModelConfig
    seed: int
    version: int
    context: int
    decode_text: DecodeText | None
    shared: bool = False
    client: str = ""

    def trunk(self) -> Trunk:
        """A frozen copy in this process, adapter included."""
        ...

    def write(self, folder: Path) -> dict[str, str]:
        """Writes a checkpoint folder (PEFT or Hugging Face format), atomically; returns SHA-256 of each tensor."""
        ...


OpenSampler: TypeAlias = Callable[[Published], Sampler]
"""Makes a sampler of published weights; an engine has one of these for as long as it lives."""

SAMPLERS: Registry[Callable[[RolloutConfig, Crew | None], OpenSampler]] = Registry(
    "rollout.kind",
    {"native": "thumbs.rollout.native:native_samplers", "vllm": "thumbs.rollout.vllm:vllm_samplers"},
)
"""What draws from an engine's models. The crew is what starts workers (None: subprocesses of this machine)."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (a folder of our own in it, with a name of its own)


class Shelf:
    """Folders of published weights, in shared memory while there is room, else among the temporary files.

    They go with this process; what a killed one left is swept away by the next that makes a shelf.
    """

    def __init__(self) -> None:
        roots = [root for root in (SHARED_MEMORY, Path(tempfile.gettempdir())) if os.access(root, os.W_OK)]
        for root in roots:
            _sweep(root)
        self._folders = [Path(tempfile.mkdtemp(prefix=PREFIX, dir=root)) for root in roots]
        self._locks = [FileLock(folder / LOCK) for folder in self._folders]
        for lock in self._locks:
            lock.acquire()

    def put(self, key: int, published: Published) -> tuple[Path, dict[str, str]]:
        """A folder with the weights, and SHA-256 of each tensor. Raises CheckpointError if there is room nowhere."""
        *others, last = self._folders
        for folder in others:
            try:
                return folder / f"{key}", published.write(folder / f"{key}")
            except CheckpointError as error:
                log.info("published weights go to %s: %s", last, error)
        return last / f"{key}", published.write(last / f"{key}")

    def drop(self, key: int) -> None:
        """Removes the weights."""
        for folder in self._folders:
            shutil.rmtree(folder / f"{key}", ignore_errors=True)

    def close(self) -> None:
        """Removes all."""
        for folder, lock in zip(self._folders, self._locks, strict=True):
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


def receive_files(files: dict[str, bytes]) -> Path:
    """A folder with the files of one that is on another machine."""
    folder = Path(tempfile.mkdtemp(prefix="thumbs-received-"))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _sweep(root: Path) -> None:
    """Removes what processes left that are no more: nobody holds their locks."""
    for folder in root.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout), FileLock(folder / LOCK, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
