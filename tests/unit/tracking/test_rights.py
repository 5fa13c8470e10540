"""What is written can be read by whoever the umask lets read, whichever library wrote it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import thumbs
from thumbs.compat.rlhf_pipeline.pt_files import PtFile, write_pt
from thumbs.engine.checkpoints import write_checkpoint
from thumbs.errors import RunError
from thumbs.models.tensor_files import write_tensors
from thumbs.tracking.files import new_folder, write_json, write_text

TENSORS = {"a": torch.zeros(2)}


def a_folder(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "a.txt").write_text("a")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "a"),
        lambda path: write_json(path, {}),
        lambda path: write_tensors(path, TENSORS),
        lambda path: write_pt(path, PtFile(TENSORS, {}, 0)),
        lambda path: write_checkpoint(path, {"m.safetensors": TENSORS}, {"thumbs.json": {}}),
        a_folder,
    ],
)
def test_rights_are_those_of_the_umask(write: Callable[[Path], None], umask: int, tmp_path: Path):
    before = os.umask(umask)
    try:
        write(tmp_path / "written")
    finally:
        os.umask(before)
    for path in (tmp_path / "written", *(tmp_path / "written").glob("*")):
        whole = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == whole & ~umask
    assert [path.name for path in tmp_path.iterdir()] == ["written"]


def test_no_other_writer_makes_private_files():
    source = Path(thumbs.__file__).parent
    private = re.compile(r"\bsave_file\(|\bmkstemp\(|NamedTemporaryFile\(")
    found = {file.name for file in source.rglob("*.py") if private.search(file.read_text(encoding="utf-8"))}
    assert found == {"tensor_files.py"}


def half(path: Path) -> None:
    with new_folder(path) as folder:
        (folder / "half.txt").write_text("a")
        raise ZeroDivisionError


def late(path: Path) -> None:
    with new_folder(path):
        path.mkdir()
        (path / "theirs.txt").write_text("a")  # another process came first


def test_a_folder_is_whole_or_not_there(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        half(tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with pytest.raises(RunError, match="cannot write"):
        late(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs.txt"]
