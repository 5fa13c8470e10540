"""What may go wrong while a checkpoint is written, in the process that writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest

from thumbs.engine import checkpoints
from thumbs.engine.rank import Rank
from thumbs.engine.sharded_rank import ShardedRank

PATCHES = pytest.MonkeyPatch()


def crash_at(moment: str) -> None:
    """An end that no handler expects, at one point of write_checkpoint."""

    def stop(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    if "rename" not in moment:
        PATCHES.setattr(checkpoints, moment, stop)
        return
    rename = Path.rename
    source = "saved" if moment == "first rename" else "saved.new"
    PATCHES.setattr(Path, "rename", lambda path, to: stop() if path.name == source else rename(path, to))


def fill_disk() -> None:
    """No room for tensors."""

    def full(*_: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    PATCHES.setattr(checkpoints, "write_tensors", full)


def mend() -> None:
    """Everything as it was."""
    PATCHES.undo()


class Patched:
    """Something in whose process the functions above can be called."""

    def patch(self, function: str, *args: Any) -> None:
        globals()[function](*args)


class PatchedRank(Patched, Rank):
    """A rank so."""


class PatchedShardedRank(Patched, ShardedRank):
    """A rank with a part of each weight."""
